"""A plain folder of recordings, each with its transcript in a file of the same stem beside it, at any depth.

`a.wav` and `a.normalized.txt`, `a.txt` or `a.lab`: as LibriTTS is, and what tar makes of a webdataset. Of several the
first of TRANSCRIPTS is read."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from data_prep.audio.decode import EXTENSIONS
from data_prep.importers.parsing.files import walked
from data_prep.importers.parsing.importer import DEFAULTS, ImportOptions, faulty, report_unmatched
from data_prep.importers.parsing.rows import Keys
from data_prep.utterance import MAX_LINE_BYTES, Utterance, not_utf8, safe_key
from model.errors import UserError

TRANSCRIPTS = (".normalized.txt", ".txt", ".lab")
NO_TRANSCRIPT = f"no file of its name with {', '.join(TRANSCRIPTS)} lies beside it"
FOLDERS_SEARCHED = 1000


def is_folder(path: Path) -> bool:
    """A folder with such a pair among the first folders in it."""
    first = islice(walked(path), FOLDERS_SEARCHED) if path.is_dir() else ()
    return any(_transcript(stem, set(names)) for _, names in first for stem, _ in _recordings(names))


def import_folder(root: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """In the order of the paths; the key is made from the recording's name, as described at rows.Keys.

    A recording without a transcript keeps its place with that as the fault in its `part`, for the build to count as
    bad; transcripts without a recording are counted and reported. UserError: a folder or a transcript that cannot be
    read, two recordings of one stem, no pair at all."""
    pairs: list[tuple[str, str]] = []  # recording and transcript, which is empty where there is none
    unmatched: list[str] = []
    for folder, names in walked(root):
        stems, present = dict[str, str](), set(names)
        for stem, name in _recordings(names):
            if stem in stems:
                raise UserError(f"{folder} holds {stems[stem]} and {name}, two recordings of one name; remove one")
            stems[stem] = name
            transcript = _transcript(stem, present)
            pairs.append((os.path.join(folder, name), transcript and os.path.join(folder, transcript)))
        for name in names:
            parts = name.split(".")
            if name.endswith(TRANSCRIPTS) and not any(".".join(parts[:n]) in stems for n in range(1, len(parts))):
                unmatched.append(os.path.join(folder, name))
    if not any(transcript for _, transcript in pairs):
        raise UserError(f"{root} holds no recording with a transcript ({', '.join(TRANSCRIPTS)}) of the same stem")
    inside = [os.path.relpath(audio, root) for audio, _ in pairs]
    keys = Keys(inside, root)
    for name, (audio, transcript) in zip(inside, pairs, strict=True):
        raw = keys.key(name, None, None)
        key, text = safe_key(raw), _text(transcript) if transcript else None
        utterance = Utterance(key, audio, text, meta={"id": raw} if key != raw else {})
        yield utterance if transcript else faulty(utterance, "no-transcript", NO_TRANSCRIPT)
    report_unmatched(unmatched, "transcript has no recording", "transcripts have no recording")


def _recordings(names: list[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        stem, extension = os.path.splitext(name)
        if extension[1:].lower() in EXTENSIONS:
            yield stem, name


def _transcript(stem: str, names: set[str]) -> str:
    """Its name; empty where there is none."""
    return next((stem + kind for kind in TRANSCRIPTS if stem + kind in names), "")


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_LINE_BYTES + 1)
        if len(data) > MAX_LINE_BYTES:
            raise UserError(f"{path} has more than {MAX_LINE_BYTES:,} bytes; a transcript has one utterance's words")
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {not_utf8(error)}; convert the file to UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; mend its rights, or leave it out") from None
