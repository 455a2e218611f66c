"""LibriSpeech as it is unpacked from OpenSLR, and corpora laid out like it: a split, several, or all of it.

Somewhere under the folder lie `84-121123.trans.txt` with lines `84-121123-0000 GO DO YOU HEAR`, and beside each the
recordings it names, `84-121123-0000.flac`. SPEAKERS.TXT, where there is one, adds the speaker's sex."""

import os
from collections.abc import Iterator
from pathlib import Path

from data_prep.importers.parsing.files import read_keyed, walked
from data_prep.importers.parsing.importer import DEFAULTS, ImportOptions, report_unmatched
from data_prep.utterance import Utterance, safe_key
from model.errors import UserError


def is_librispeech(path: Path) -> bool:
    """A folder with a *.trans.txt at the depth of a corpus, a split, a speaker or a chapter."""
    return path.is_dir() and any(next(path.glob(f"{'*/' * depth}*.trans.txt"), None) for depth in range(5))


def import_librispeech(root: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """In the order of the paths. A line without a recording goes on to the build, which counts it as missing;
    recordings without a line are counted and reported. UserError: no such folder, one that cannot be read, no
    transcripts."""
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; give the one that LibriSpeech was unpacked to")
    sexes, empty, unmatched = _sexes(root), True, list[str]()
    for folder, files in walked(root):
        recordings = {os.path.splitext(name)[0]: name for name in files if name.endswith((".flac", ".wav"))}
        transcripts = [Path(folder, name) for name in files if name.endswith(".trans.txt")]
        lines = {key: entry.value for path in transcripts for key, entry in read_keyed(path).items()}
        unmatched += [os.path.join(folder, recordings[key]) for key in sorted(set(recordings) - set(lines))]
        parts = (root.absolute() / Path(folder).relative_to(root)).parts  # .../dev-clean/84/121123
        split = parts[-3] if len(parts) >= 3 else ""
        for name, text in sorted(lines.items()):
            empty, key, speaker = False, safe_key(name), name.split("-")[0]
            meta = {"split": split, "sex": sexes.get(speaker, ""), "id": name if key != name else ""}
            meta = {field: value for field, value in meta.items() if value}
            audio = os.path.join(folder, recordings.get(name, f"{name}.flac"))
            yield Utterance(key, audio, text, language="en", speaker=speaker, meta=meta)
    if empty:
        raise UserError(f"{root} holds no *.trans.txt at any depth; give a LibriSpeech folder, or a split of it")
    beside = "in a .trans.txt beside"
    report_unmatched(unmatched, f"recording has no line {beside} it", f"recordings have no line {beside} them")


def _sexes(root: Path) -> dict[str, str]:
    """Speaker id to "F" or "M", from SPEAKERS.TXT in the folder or one or two above it (a split was given)."""
    for folder in (root, root / "LibriSpeech", *root.absolute().parents[:2]):
        path = folder / "SPEAKERS.TXT"
        if path.is_file():
            rows = [line.split("|") for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
            return {row[0].strip(): row[1].strip() for row in rows if len(row) > 2 and not row[0].startswith(";")}
    return {}
