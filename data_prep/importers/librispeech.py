"""LibriSpeech as it is unpacked from OpenSLR, and corpora laid out like it: a split, several, or all of it.

Somewhere under the folder lie `84-121123.trans.txt` with lines `84-121123-0000 GO DO YOU HEAR`, and beside each the
recordings it names, `84-121123-0000.flac`. SPEAKERS.TXT, where there is one, adds the speaker's sex.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from data_prep.importers.parsing.lines import read_keyed
from data_prep.importers.parsing.options import ImportOptions
from data_prep.importers.parsing.remarks import Without
from data_prep.importers.parsing.tree import walked
from data_prep.utterance import Utterance, safe_key
from model.errors import UserError

DEFAULTS = ImportOptions()
EXTENSIONS = (".flac", ".wav")


def is_librispeech(path: Path) -> bool:
    """A folder with a *.trans.txt at the depth of a corpus, a split, a speaker or a chapter."""
    return path.is_dir() and any(next(path.glob(f"{'*/' * depth}*.trans.txt"), None) for depth in range(5))


def import_librispeech(root: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """In the order of the paths. A line without a recording goes on to the build, which counts it as missing;
    recordings without a line are counted and said. UserError: no such folder, one that cannot be read, no transcripts.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; give the one that LibriSpeech was unpacked to")
    sexes = _sexes(root)
    found, silent = (
        False,
        Without(
            "recording has no line in a .trans.txt beside it", "recordings have no line in a .trans.txt beside them"
        ),
    )
    for folder, files in walked(root):
        recordings = {os.path.splitext(name)[0]: name for name in files if name.endswith(EXTENSIONS)}
        transcripts = [name for name in files if name.endswith(".trans.txt")]
        lines = {key: one.value for name in transcripts for key, one in read_keyed(Path(folder, name)).items()}
        for key in sorted(set(recordings) - set(lines)):
            silent.add(os.path.join(folder, recordings[key]))
        split = _split(root, Path(folder))
        for key, text in sorted(lines.items()):
            found = True
            yield _utterance(key, os.path.join(folder, recordings.get(key, f"{key}.flac")), text, split, sexes)
    if not found:
        raise UserError(f"{root} holds no *.trans.txt at any depth; give a LibriSpeech folder, or a split of it")
    silent.say()


def _utterance(name: str, audio: str, text: str, split: str, sexes: dict[str, str]) -> Utterance:
    speaker = name.split("-")[0]
    meta = {"split": split, "sex": sexes.get(speaker, ""), "id": name if safe_key(name) != name else ""}
    known = {field: value for field, value in meta.items() if value}
    return Utterance(safe_key(name), audio, text, language="en", speaker=speaker, meta=known)


def _split(root: Path, folder: Path) -> str:
    """`dev-clean` of `dev-clean/84/121123`, whether the folder given was the corpus, the split or a speaker."""
    parts = (root.absolute() / folder.relative_to(root)).parts
    return parts[-3] if len(parts) >= 3 else ""


def _sexes(root: Path) -> dict[str, str]:
    """Speaker id to "F" or "M", from SPEAKERS.TXT in the folder or one or two above it (a split was given)."""
    for folder in (root, root / "LibriSpeech", *root.absolute().parents[:2]):
        path = folder / "SPEAKERS.TXT"
        if path.is_file():
            rows = [line.split("|") for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
            return {row[0].strip(): row[1].strip() for row in rows if len(row) > 2 and not row[0].startswith(";")}
    return {}
