"""WeNet's lists: data.list of {"key", "wav", "txt"} with start and end at will, or shards.list, whose lines are tars.

A tar of theirs holds, for each key, `KEY.wav` (or another format), `KEY.txt`, and from `prep export` also `KEY.json`,
an object of language, speaker, task and meta. As in WeNet a key is a member's name up to its last dot. A folder of such
tars is read too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.addresses import is_remote
from data_prep.durable import strict_json
from data_prep.importers.parsing.lines import fields_taken, read_lines
from data_prep.importers.parsing.options import ImportOptions
from data_prep.importers.parsing.rows import utterance_of
from data_prep.importers.parsing.rxfilename import require_found
from data_prep.importers.parsing.tree import files_below
from data_prep.recordings.tar_members import Member, members
from data_prep.utterance import Utterance, not_utf8, read_rows, resolve_audio, safe_key
from model.errors import UserError

DEFAULTS = ImportOptions()
LISTS = ("shards.list", "data.list")
NAMES = {"key": ["key"], "audio": ["wav"], "text": ["txt"], "start": ["start"], "end": ["end"], "task": ["task"]}
NAMES |= {"language": ["lang", "language"], "speaker": ["speaker"]}
SOUND = ("aiff", "flac", "mp3", "m4a", "ogg", "opus", "wav", "wma")
MAX_TEXT_BYTES = 2 << 20  # of a `KEY.txt` or `KEY.json`
TOLD = ("language", "speaker", "task", "meta")


def is_wenet(path: Path) -> bool:
    line = _first_line(path / "shards.list" if path.is_dir() else path)
    return _is_tar(line) or {"key", "wav", "txt"} <= set(_object(line))


def import_wenet(source: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """In the order of the list and of the tars. Relative paths start at the list's folder, or at `audio_root`.

    UserError: no lines, one that is no utterance and no tar, a first path that is not there, a key with two recordings
    or with a transcript alone.
    """
    if source.is_dir():
        source = next((source / name for name in LISTS if (source / name).is_file()), source)
    if source.is_dir():
        tars = files_below(source, (".tar",), depth=0)
        if not tars:
            raise UserError(f"{source} holds no tars and no shards.list; no data.list; give one of these")
        for tar in tars:
            yield from _in_tar(tar)
    elif _is_tar(_first_line(source)):
        home = options.audio_root or source.parent
        for place, line in read_lines(source):
            if not _is_tar(line) or is_remote(line):
                raise UserError(f"{place}: {line[:80]!r} is no tar on this machine; a shards.list has one a line")
            yield from _in_tar(_tar_at(place, line, home, options))
    else:
        yield from _listed(source, options)


def _tar_at(place: str, line: str, home: Path, options: ImportOptions) -> Path:
    try:
        path = resolve_audio(line, home, options.allow_outside)
        require_found(path, home)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    return Path(path)


def _listed(path: Path, options: ImportOptions) -> Iterator[Utterance]:
    home, first = options.audio_root or path.parent, True
    for place, row in read_rows(path):
        try:
            if not {"key", "wav", "txt"} <= set(row):
                raise UserError("a row of a data.list has key, wav and txt")
            row = row | {"end": None} if row.get("end") == -1 else row  # a cut to the recording's end
            utterance = utterance_of(row, fields_taken(row, NAMES, options), home, options)
            if first:
                require_found(utterance.audio, home)
            first = False
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        yield utterance
    if first:
        raise UserError(f"{path} has no lines; a data.list has one JSON object a line")


def _in_tar(tar: Path) -> Iterator[Utterance]:
    samples: dict[str, dict[str, Member]] = {}
    for member in members(tar):
        key, dot, extension = member.name.rpartition(".")
        parts = samples.setdefault(key, {})
        kind = "sound" if extension.lower() in SOUND else extension
        if not dot or kind in parts:
            fault = f"is a second {kind} of {key}" if dot else "has no extension"
            raise UserError(f"{tar}: member {member.name!r} {fault}; a tar of WeNet's has KEY.wav and KEY.txt")
        parts[kind] = member
    for key, parts in samples.items():
        if "sound" not in parts:
            raise UserError(f"{tar}: {key} has {', '.join(parts)} but no recording ({', '.join(SOUND)})")
        text = _read(tar, parts["txt"]) if "txt" in parts else ""
        told = _told(tar, parts["json"]) if "json" in parts else {}
        sound = parts["sound"]
        utterance = Utterance(safe_key(key), str(tar), text, part=f"bytes:{sound.offset}:{sound.size}")
        meta = {"id": key} if safe_key(key) != key else {}
        try:
            yield replace(utterance, **{"meta": meta, **told})
        except UserError as error:
            raise UserError(f"{tar}: {error}") from None


def _told(tar: Path, member: Member) -> dict[str, Any]:
    """What `KEY.json` says; fields that Utterance has not are meta."""
    try:
        row = strict_json(_read(tar, member).encode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{tar}: {member.name} is no JSON: {' '.join(str(error).split())}") from None
    if not isinstance(row, dict):
        raise UserError(f"{tar}: {member.name} is no JSON object")
    others = {name: value for name, value in row.items() if name not in TOLD or not isinstance(row.get("meta"), dict)}
    fields = {name: row[name] for name in TOLD if name in row and name not in others}
    return {**fields, "meta": {**others, **fields.get("meta", {})}}


def _read(tar: Path, member: Member) -> str:
    if member.size > MAX_TEXT_BYTES:
        raise UserError(f"{tar}: {member.name} has {member.size:,} bytes, a transcript has at most {MAX_TEXT_BYTES:,}")
    with open(tar, "rb") as file:
        data = os.pread(file.fileno(), member.size, member.offset)
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{tar}: {member.name}: {not_utf8(error)}; write the set again in UTF-8") from None


def _first_line(path: Path) -> str:
    """Empty for what is no text. Never raises."""
    try:
        return next(read_lines(path), ("", ""))[1] if path.is_file() else ""
    except UserError:
        return ""


def _object(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _is_tar(line: str) -> bool:
    return line.endswith(".tar") and not line.startswith("{")
