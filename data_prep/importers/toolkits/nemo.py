"""NeMo manifests: JSON lines with audio_filepath, duration, text, and offset where the row is a cut.

`offset`, also 0, makes a row a cut that is exact; without it the row is a whole recording of a stated length. The key
is the row's own (key, utt_id, id), else the stem of the file's name; where stems clash, the whole path for each of
them; where a recording has several rows, the cut's place behind it (milliseconds).

Tarred sets: rows have a shard_id, the recordings lie in `audio_N.tar` beside the manifest (or above its folder, where
that is sharded_manifests/). A row's member is named as it says, or as NeMo's converter writes the path (`/` and `.` are
`_`); `X-sub1.wav` is a further cut of member X.wav. The same rows give the same utterances from tars and from files, as
far as they say the same: that converter writes the whole path into audio_filepath, so rows that are to keep their keys
need one of their own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.importers.parsing.keys import Keys
from data_prep.importers.parsing.lines import fields_taken
from data_prep.importers.parsing.options import ImportOptions
from data_prep.importers.parsing.rows import first_row, shown, utterance_of
from data_prep.importers.parsing.rxfilename import Recording, require_found
from data_prep.importers.parsing.tree import files_below
from data_prep.recordings.tar_members import Member, members
from data_prep.utterance import Utterance, read_rows, resolve_audio
from model.errors import UserError

DEFAULTS = ImportOptions()
MANIFESTS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
NAMES = {  # field of Utterance: where a row says it, the first that is there
    "key": ("key", "utt_id", "id"),
    "audio": ("audio_filepath", "audio_file"),
    "text": ("text",),
    "start": ("offset",),
    "duration": ("duration",),
    "language": ("language", "lang"),
    "speaker": ("speaker", "speaker_id"),
    "task": ("task",),
}
TAR = re.compile(r"audio.*?_([0-9]+)\D*\.tar")
SUB = re.compile(r"(.+)-sub[0-9]+(\.\w+)?")
RANGE = re.compile(r"(?:_OP_|\{)([0-9]+)\.\.([0-9]+)(?:_CL_|\})")
SHARDED = re.compile(r"manifest.*_([0-9]+)\.json")
MAX_TARS = 100_000
TARRED_NAME = "tarred_audio_manifest.json"


def is_nemo(path: Path) -> bool:
    if path.is_dir():
        return bool(_tars(path)) and any(_is_row(first_row(manifest)) for manifest in _manifests(path)[:1])
    return _is_row(first_row(path))


def import_nemo(source: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """In the order of the rows. `source`: a manifest (`manifest__OP_0..7_CL_.json`: those eight), or the folder of a
    tarred set.

    UserError: no rows, one that is no utterance, a first path that is not there, a tar or a member that is missing.
    """
    manifests = _manifests(source)
    if not manifests:
        raise UserError(f"{source} holds no manifest (JSON lines with audio_filepath); give the manifest itself")
    if len(manifests) > 1 and not SHARDED.fullmatch(manifests[0].name):
        names = ", ".join(path.name for path in manifests[:5])
        raise UserError(f"{source} holds {len(manifests)} manifests ({names}); give the one that you mean")
    tarred = "shard_id" in first_row(manifests[0])
    home = options.audio_root or manifests[0].parent
    places = _Tars(home) if tarred else _Files(home, options)
    keys, found = Keys(_names(manifests, places), home), False
    for place, row in _rows(manifests):
        found = True
        try:
            yield _utterance(row, keys, places, options)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
    if not found:
        raise UserError(f"{manifests[0]} has no lines; a manifest has one JSON object a line")


class _Files:
    """Recordings that are files."""

    def __init__(self, home: Path, options: ImportOptions) -> None:
        self.home, self._options, self._checked = home, options, False

    def name(self, row: Mapping[str, Any]) -> str:
        """Of the recording, as the manifest writes it."""
        return _written(row)

    def find(self, row: Mapping[str, Any]) -> Recording:
        path = resolve_audio(_written(row), self.home, self._options.allow_outside)
        if not self._checked:
            require_found(path, self.home)
            self._checked = True
        return Recording(path, "")


class _Tars:
    """Recordings that are members of audio_N.tar."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._tars = _tars(home) or _tars(home.parent)
        self._members: dict[Path, dict[str, Member]] = {}

    def name(self, row: Mapping[str, Any]) -> str:
        written = _written(row)
        cut = SUB.fullmatch(written)
        member = self._member(row)[1].name
        is_cut = cut is not None and member in _spellings(cut[1] + (cut[2] or ""))
        return cut[1] + (cut[2] or "") if cut is not None and is_cut else written

    def find(self, row: Mapping[str, Any]) -> Recording:
        tar, member = self._member(row)
        return Recording(str(tar), f"bytes:{member.offset}:{member.size}")

    def _member(self, row: Mapping[str, Any]) -> tuple[Path, Member]:
        tar = self._tars.get(row["shard_id"]) if isinstance(row.get("shard_id"), int) else None
        if tar is None:
            raise UserError(f"shard_id is {row.get('shard_id')!r}, {self.home} has no such audio_N.tar")
        if tar not in self._members:
            self._members[tar] = {member.name: member for member in members(tar)}
        written = _written(row)
        cut = SUB.fullmatch(written)
        for name in (*_spellings(written), *(_spellings(cut[1] + (cut[2] or "")) if cut else ())):
            if name in self._members[tar]:
                return tar, self._members[tar][name]
        raise UserError(f"{tar} has no member {written!r}; is the manifest of another set?")


def _utterance(row: dict[str, Any], keys: Keys, places: _Files | _Tars, options: ImportOptions) -> Utterance:
    recording = places.find(row)
    key = "" if _own_key(row) else keys.key(places.name(row), row.get("offset"), row.get("duration"))
    told = {name: value for name, value in row.items() if name != "shard_id"}  # where it lies is no part of what it is
    taken = fields_taken(told, NAMES, options)
    if "text" not in taken:
        raise UserError(f"no field 'text', there are: {shown(told)}; say which: --column text=NAME")
    utterance = utterance_of(told, taken, places.home, replace(options, allow_outside=True), key)
    return replace(utterance, audio=recording.audio, part=recording.part)


def _names(manifests: list[Path], places: _Files | _Tars) -> Iterator[str]:
    """Of the recordings of rows that have no key of their own."""
    for place, row in _rows(manifests):
        if not _own_key(row):
            try:
                yield places.name(row)
            except UserError as error:
                raise UserError(f"{place}: {error}") from None


def _rows(manifests: list[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in manifests:
        yield from read_rows(path)


def _manifests(source: Path) -> list[Path]:
    """The manifest itself, those that its name counts up, or those in a folder."""
    if not source.is_dir():
        numbers = RANGE.search(source.name)
        if source.exists() or not numbers:
            return [source]
        names = (f"{source.name[: numbers.start()]}{n}{source.name[numbers.end() :]}" for n in _span(numbers))
        return [source.with_name(name) for name in names]
    if (source / TARRED_NAME).is_file():
        return [source / TARRED_NAME]
    for folder in (source / "sharded_manifests", source):
        found = {path: SHARDED.fullmatch(path.name) for path in _files(folder, "manifest", (".json",))}
        numbered = sorted((int(match[1]), path) for path, match in found.items() if match)
        if numbered:
            return [path for _, path in numbered]
    return [path for path in _files(source, "", MANIFESTS) if _is_row(first_row(path))]


def _tars(folder: Path) -> dict[int, Path]:
    """The tar of each shard_id."""
    tars: dict[int, Path] = {}
    for path in _files(folder, "audio", (".tar",)):
        number, span = TAR.fullmatch(path.name), RANGE.search(path.name)
        for shard in _span(span) if span else [int(number[1])] if number else []:
            tars[shard] = path
        if len(tars) > MAX_TARS:
            raise UserError(f"{folder}: the names of its tars count up more than {MAX_TARS:,} shards; is one misspelt?")
    return tars


def _files(folder: Path, beginning: str, suffixes: tuple[str, ...]) -> list[Path]:
    files = files_below(folder, suffixes, depth=0) if folder.is_dir() else []
    return [path for path in files if path.name.startswith(beginning)]


def _span(numbers: re.Match[str]) -> range:
    """UserError for more than MAX_TARS."""
    span = range(int(numbers[1]), int(numbers[2]) + 1)
    if int(numbers[2]) - int(numbers[1]) >= MAX_TARS:
        raise UserError(f"{numbers[0][:80]!r} in a name counts up more than {MAX_TARS:,} files; is it misspelt?")
    return span


def _spellings(written: str) -> tuple[str, ...]:
    """The names a recording may have in a tar."""
    base, extension = os.path.splitext(written)
    return written, os.path.basename(written), base.replace("/", "_").replace(".", "_") + extension


def _written(row: Mapping[str, Any]) -> str:
    written = next((row[name] for name in NAMES["audio"] if row.get(name) is not None), None)
    if not isinstance(written, str) or not written:
        raise UserError(f"audio_filepath is {str(written)[:80]!r}, it must be the path of one file")
    return written


def _own_key(row: Mapping[str, Any]) -> bool:
    return any(row.get(name) not in (None, "") for name in NAMES["key"])


def _is_row(row: Mapping[str, Any]) -> bool:
    return any(name in row for name in NAMES["audio"])
