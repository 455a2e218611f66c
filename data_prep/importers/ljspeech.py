"""LJ Speech, and corpora laid out like it: metadata.csv with `ID|text as printed|text as read`, and wavs/ID.wav.

The text as read (numbers and abbreviations spelled out) is the transcript; the one as printed is kept in meta as "raw".
The file has no header and no quoting. A line of two fields has one text, a fourth and more are kept in meta as "more".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from data_prep.importers.parsing.lines import text_lines
from data_prep.importers.parsing.options import ImportOptions
from data_prep.importers.parsing.remarks import Without
from data_prep.importers.parsing.rows import audio_of
from data_prep.importers.parsing.tree import files_below
from data_prep.importers.table import first_line
from data_prep.utterance import Utterance, safe_key
from model.errors import UserError

DEFAULTS = ImportOptions()
MANIFEST = "metadata.csv"


def is_ljspeech(path: Path) -> bool:
    """A folder with wavs/ and a metadata.csv of which the first line has two or more fields."""
    return (path / "wavs").is_dir() and "|" in first_line(path / MANIFEST)


def import_ljspeech(root: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """In the order of the lines; recordings in wavs/ without one are counted and said. UserError, with file
    and line: a line of one field, no metadata.csv, no lines."""
    path, home, named = root / MANIFEST, options.audio_root or root / "wavs", set[str]()
    for place, line in text_lines(path):
        if line.strip():
            try:
                utterance = _utterance(line.rstrip("\r\n").split("|"), home, options)
            except UserError as error:
                raise UserError(f"{place}: {error}") from None
            named.add(os.path.basename(utterance.audio))
            yield utterance
    if not named:
        raise UserError(f"{path} has no lines; each is ID|text as printed|text as read")
    silent = Without(f"recording has no line in {path}", f"recordings have no line in {path}")
    for recording in files_below(home, (".wav",), depth=0) if home.is_dir() else ():
        if recording.name not in named:
            silent.add(recording)
    silent.say()


def _utterance(values: list[str], home: Path, options: ImportOptions) -> Utterance:
    if len(values) < 2:
        raise UserError(f"{values[0][:40]!r} is one field; a line is ID|text as printed|text as read")
    name, raw, *read = values
    name = name.strip()
    meta = {"raw": raw} if read else {}
    meta |= {"more": read[1:]} if read[1:] else {}
    key = safe_key(name.removesuffix(".wav"))
    meta |= {"id": name} if key != name else {}
    audio = name if name.endswith(".wav") else f"{name}.wav"
    return Utterance(key, audio_of(audio, "", home, options), read[0] if read else raw, meta=meta)
