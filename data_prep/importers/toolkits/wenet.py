"""WeNet's lists: data.list of {"key", "wav", "txt"} with optional start and end, or shards.list, whose lines are tars.

A tar of theirs holds, for each key, `KEY.wav` (or another format), `KEY.txt`, and from `prep export` also `KEY.json`,
an object of language, speaker, task and meta. As in WeNet a key is a member's name up to its last dot. A folder of such
tars is read too."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.addresses import is_remote
from data_prep.importers.parsing.files import files_in, first_line, json_object, read_lines
from data_prep.importers.parsing.importer import DEFAULTS, ImportOptions, at
from data_prep.importers.parsing.rows import fields_taken, first_row, utterance_of, utterances
from data_prep.importers.parsing.rxfilename import Recordings, require_found
from data_prep.recordings.tar_members import Member, members
from data_prep.utterance import Utterance, not_utf8, read_rows, resolve_audio, safe_key
from model.errors import UserError

LISTS = ("shards.list", "data.list")
NAMES = {  # field of Utterance: where a row of a data.list has it
    **{"key": ("key",), "audio": ("wav",), "text": ("txt",), "start": ("start",), "end": ("end",), "task": ("task",)},
    **{"language": ("lang", "language"), "speaker": ("speaker",)},
}
SOUND = ("aiff", "flac", "mp3", "m4a", "ogg", "opus", "wav", "wma")
MAX_MEMBER_BYTES = 2 << 20  # of a `KEY.txt` or `KEY.json`
EXPORTED = ("language", "speaker", "task", "meta")


def is_wenet(path: Path) -> bool:
    path = path / "shards.list" if path.is_dir() else path
    return _is_tar(first_line(path)) or {"key", "wav", "txt"} <= set(first_row(path))


def import_wenet(source: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """In the order of the list and of the tars. Relative paths start at the list's folder, or at `audio_root`.

    UserError: no lines, one that is no utterance and no tar, a first path that does not exist, a key with two
    recordings or with a transcript alone."""
    if source.is_dir():
        source = next((source / name for name in LISTS if (source / name).is_file()), source)
    if source.is_dir() or _is_tar(first_line(source)):
        for tar in _tars(source, options):
            yield from _in_tar(tar)
        return
    finder = Recordings(source.parent, options)

    def utterance(row: dict[str, Any]) -> Utterance:
        row = row | {"end": None} if row.get("end") == -1 else row  # a cut to the recording's end
        columns = fields_taken(row, NAMES, options, required=("key", "audio", "text"))
        return utterance_of(row, columns, finder.find(row[columns["audio"]]))

    no_lines = f"{source} has no lines; a data.list has one JSON object a line"
    yield from utterances(read_rows(source), utterance, no_lines)


def _tars(source: Path, options: ImportOptions) -> Iterator[Path]:
    if source.is_dir():
        tars = files_in(source, (".tar",))
        if not tars:
            raise UserError(f"{source} holds no tars and no shards.list; no data.list; give one of these")
        yield from tars
        return
    home = options.audio_root or source.parent
    for place, line in read_lines(source):
        with at(place):
            if not _is_tar(line) or is_remote(line):
                raise UserError(f"{line[:80]!r} is no tar on this machine; a shards.list has one a line")
            tar = resolve_audio(line, home, options.allow_outside)
            require_found(tar, home)
        yield Path(tar)


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
        with at(str(tar)):
            if "sound" not in parts:
                raise UserError(f"{key} has {', '.join(parts)} but no recording ({', '.join(SOUND)})")
            text = _read(tar, parts["txt"]) if "txt" in parts else None
            fields = _exported(tar, parts["json"]) if "json" in parts else {}
            part = f"bytes:{parts['sound'].offset}:{parts['sound'].size}"
            meta = {"id": key} if safe_key(key) != key else {}
            utterance = replace(Utterance(safe_key(key), str(tar), text, part=part), **{"meta": meta, **fields})
        yield utterance


def _exported(tar: Path, member: Member) -> dict[str, Any]:
    """The fields in `KEY.json`; those that Utterance does not have are meta, and all of them where it has no meta."""
    text = _read(tar, member)
    try:
        row = json_object(text.encode())
    except ValueError as error:
        raise UserError(f"{member.name} is no JSON object: {error}") from None
    if not isinstance(row.get("meta"), dict):
        return {"meta": row}
    others = {name: value for name, value in row.items() if name not in EXPORTED}
    return {name: row[name] for name in EXPORTED if name in row} | {"meta": {**others, **row["meta"]}}


def _read(tar: Path, member: Member) -> str:
    if member.size > MAX_MEMBER_BYTES:
        raise UserError(f"{member.name} has {member.size:,} bytes, a transcript has at most {MAX_MEMBER_BYTES:,}")
    with open(tar, "rb") as file:
        file.seek(member.offset)
        data = file.read(member.size)
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{member.name}: {not_utf8(error)}; write the set again in UTF-8") from None


def _is_tar(line: str) -> bool:
    return line.endswith(".tar") and not line.startswith("{")
