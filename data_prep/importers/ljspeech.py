"""LJ Speech, and corpora laid out like it: metadata.csv with `ID|text as printed|text as read`, and wavs/ID.wav.

The text as read (numbers and abbreviations spelled out) is the transcript; the one as printed is kept in meta as "raw".
The file has no header and no quoting. A line of two fields has one text, a fourth and more are kept in meta as "more".
"""

import os
from collections.abc import Iterator
from pathlib import Path

from data_prep.importers.parsing.files import files_in, first_line, text_lines
from data_prep.importers.parsing.importer import DEFAULTS, ImportOptions, report_unmatched
from data_prep.importers.parsing.rows import utterances
from data_prep.utterance import Utterance, resolve_audio, safe_key
from model.errors import UserError


def is_ljspeech(path: Path) -> bool:
    """A folder with wavs/ and a metadata.csv of which the first line has two or more fields."""
    return (path / "wavs").is_dir() and "|" in first_line(path / "metadata.csv")


def import_ljspeech(root: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """In the order of the lines; recordings in wavs/ without one are counted and reported. UserError, with file
    and line: a line of one field, no metadata.csv, no lines."""
    path, home, named = root / "metadata.csv", options.audio_root or root / "wavs", set[str]()

    def utterance(line: str) -> Utterance:
        name, *texts = line.rstrip("\r\n").split("|")
        if not texts:
            raise UserError(f"{name[:40]!r} is one field; a line is ID|text as printed|text as read")
        name = name.strip()
        key = safe_key(name.removesuffix(".wav"))
        raw, more = texts[0] if texts[1:] else None, texts[2:] or None
        meta = {"raw": raw, "more": more, "id": name if key != name else None}
        meta = {field: value for field, value in meta.items() if value is not None}
        audio = resolve_audio(f"{name.removesuffix('.wav')}.wav", home, options.allow_outside)
        named.add(os.path.basename(audio))
        return Utterance(key, audio, texts[min(1, len(texts) - 1)], meta=meta)

    lines = (line for line in text_lines(path) if line[1].strip())
    yield from utterances(lines, utterance, f"{path} has no lines; each is ID|text as printed|text as read")
    unmatched = [recording for recording in files_in(home, (".wav",)) if recording.name not in named]
    report_unmatched(unmatched, f"recording has no line in {path}", f"recordings have no line in {path}")
