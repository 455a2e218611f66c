"""NeMo manifests: JSON lines with audio_filepath, duration, text, and offset where the row is a cut.

`offset`, also 0, makes a row a cut that is exact; without it the row is a whole recording of a stated length. The key
is the row's own (key, utt_id, id), else made from the file's name as described at rows.Keys.

Tarred sets: rows have a shard_id, the recordings lie in `audio_N.tar` beside the manifest (or above its folder, where
that is sharded_manifests/). A row's member is named as the row has it, or as NeMo's converter writes the path (`/` and
`.` become `_`); `X-sub1.wav` is a further cut of member X.wav. The same rows give the same utterances from tars and
from files, as far as they contain the same: that converter writes the whole path into audio_filepath, so rows that are
to keep their keys need one of their own."""

import os
import re
from collections.abc import Iterator
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

from data_prep.importers.parsing.files import files_in
from data_prep.importers.parsing.importer import DEFAULTS, ImportOptions, Recording, at
from data_prep.importers.parsing.rows import Keys, Row, fields_taken, first_row, utterance_of, utterances
from data_prep.importers.parsing.rxfilename import Recordings
from data_prep.recordings.tar_members import members
from data_prep.utterance import Utterance, read_rows
from model.errors import UserError

MANIFESTS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
NAMES = {  # field of Utterance: where a row has it, the first that is there
    **{"key": ("key", "utt_id", "id"), "audio": ("audio_filepath", "audio_file"), "text": ("text",)},
    **{"start": ("offset",), "duration": ("duration",), "task": ("task",)},
    **{"language": ("language", "lang"), "speaker": ("speaker", "speaker_id")},
}
TAR = re.compile(r"audio.*?_([0-9]+)\D*\.tar")
SUB = re.compile(r"(.+)-sub[0-9]+(\.\w+)?")
SHARDED = re.compile(r"manifest.*_([0-9]+)\.json")
TARRED_NAME = "tarred_audio_manifest.json"


def is_nemo(path: Path) -> bool:
    if path.is_dir():
        return bool(_tars(path)) and any(_is_row(first_row(manifest)) for manifest in _manifests(path)[:1])
    return _is_row(first_row(path))


def import_nemo(source: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """In the order of the rows. `source`: a manifest, or the folder of a tarred set. UserError: no rows, one that is no
    utterance, a first path that does not exist, a tar or a member that is missing."""
    manifests = _manifests(source)
    if not manifests:
        raise UserError(f"{source} holds no manifest (JSON lines with audio_filepath); give the manifest itself")
    if len(manifests) > 1 and not SHARDED.fullmatch(manifests[0].name):
        names = ", ".join(path.name for path in manifests[:5])
        raise UserError(f"{source} holds {len(manifests)} manifests ({names}); give the one that you mean")
    home = options.audio_root or manifests[0].parent
    tars = _Tars(home) if "shard_id" in first_row(manifests[0]) else None
    files = Recordings(home, options)

    def without_key() -> Iterator[str]:
        for place, row in chain.from_iterable(map(read_rows, manifests)):
            if not any(row.get(name) not in (None, "") for name in NAMES["key"]):
                with at(place):
                    name = tars.find(row)[1] if tars else _written(row)
                yield name

    keys = Keys(without_key(), home)

    def utterance(row: dict[str, Any]) -> Utterance:
        recording, name = tars.find(row) if tars else (files.find(_written(row)), _written(row))
        row.pop("shard_id", None)  # where it lies is no part of what it is
        return utterance_of(row, fields_taken(row, NAMES, options), recording, partial(keys.key, name))

    no_lines = f"{manifests[0]} has no lines; a manifest has one JSON object a line"
    yield from utterances(chain.from_iterable(map(read_rows, manifests)), utterance, no_lines)


class _Tars:
    """Recordings that are members of audio_N.tar."""

    def __init__(self, home: Path) -> None:
        self._home, self._tars = home, _tars(home) or _tars(home.parent)
        self._members = cache(lambda tar: {member.name: member for member in members(tar)})

    def find(self, row: Row) -> tuple[Recording, str]:
        """The member, and the name that all cuts of it share."""
        shard, written = row.get("shard_id"), _written(row)
        tar = self._tars.get(shard) if isinstance(shard, int) else None
        if tar is None:
            raise UserError(f"shard_id is {shard!r}, {self._home} has no such audio_N.tar")
        cut = SUB.fullmatch(written)
        for name in (written, cut[1] + (cut[2] or "")) if cut else (written,):
            base, extension = os.path.splitext(name)
            for spelling in (name, os.path.basename(name), base.replace("/", "_").replace(".", "_") + extension):
                member = self._members(tar).get(spelling)
                if member:
                    return Recording(str(tar), f"bytes:{member.offset}:{member.size}"), name
        raise UserError(f"{tar} has no member {written!r}; is the manifest of another set?")


def _written(row: Row) -> str:
    written = next((row[name] for name in NAMES["audio"] if row.get(name) is not None), None)
    if not isinstance(written, str) or not written:
        raise UserError(f"audio_filepath is {str(written)[:80]!r}, it must be the path of one file")
    return written


def _manifests(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    if (source / TARRED_NAME).is_file():
        return [source / TARRED_NAME]
    for folder in (source / "sharded_manifests", source):
        matches = {path: SHARDED.fullmatch(path.name) for path in files_in(folder, (".json",), "manifest")}
        numbered = sorted((int(match[1]), path) for path, match in matches.items() if match)
        if numbered:
            return [path for _, path in numbered]
    return [path for path in files_in(source, MANIFESTS) if _is_row(first_row(path))]


def _tars(folder: Path) -> dict[int, Path]:
    matches = {path: TAR.fullmatch(path.name) for path in files_in(folder, (".tar",), "audio")}
    return {int(match[1]): path for path, match in matches.items() if match}


def _is_row(row: Row) -> bool:
    return any(name in row for name in NAMES["audio"])
