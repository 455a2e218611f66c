"""Hugging Face AudioFolder: metadata.csv or metadata.jsonl beside the recordings, or one for each split's folder.

Each row names its recording in `file_name`, relative to the metadata's folder; the other columns are as in any table.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.audio.decode import EXTENSIONS
from data_prep.importers.parsing.options import ImportOptions
from data_prep.importers.parsing.remarks import Without, without_transcript
from data_prep.importers.parsing.rows import columns_taken, first_row, utterance_of, with_numbers
from data_prep.importers.parsing.splits import chosen_splits
from data_prep.importers.parsing.tree import files_below
from data_prep.importers.table import first_line, read_table
from data_prep.utterance import Utterance, read_rows, safe_key
from model.errors import UserError

DEFAULTS = ImportOptions()
NAMES = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
FILE_NAME = "file_name"
SOUND = tuple(f".{extension}" for extension in EXTENSIONS)


def is_audiofolder(path: Path) -> bool:
    return path.is_dir() and any(_names_files(manifest) for manifest in _manifests(path))


def import_audiofolder(root: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """Split after split, in the order of the rows; the key is the recording's path in its split.

    A recording that no row names comes last, with that as the fault in its `part`, for the build to count as bad; where
    the person named the folder of the recordings, such are counted and said. UserError: no metadata, two of them in
    one folder, several splits and none chosen, a row that is not as it must be.
    """
    manifests = _manifests(root)
    if not manifests:
        raise UserError(f"{root} holds no {' nor '.join(NAMES)}, nor does a folder in it")
    by_split: dict[str, Path] = {}
    for manifest in manifests:
        split = "" if manifest.parent == root else manifest.parent.name
        if split in by_split:
            raise UserError(f"{by_split[split]} and {manifest} name the same recordings; remove one")
        by_split[split] = manifest
    for split in chosen_splits(list(by_split), options.split, root):
        yield from _utterances(by_split[split], split, options)


def _utterances(manifest: Path, split: str, options: ImportOptions) -> Iterator[Utterance]:
    home, taken, named = options.audio_root or manifest.parent, None, set[str]()
    for place, row in _rows(manifest):
        try:
            if FILE_NAME not in row:
                raise UserError(f"no column {FILE_NAME!r}, which names the recording")
            taken = columns_taken(row, options)
            row = row if manifest.suffix == ".jsonl" else with_numbers(row, taken)
            key = os.path.splitext(str(row[FILE_NAME]))[0]
            told = {**row, **({"split": split} if split else {})}
            utterance = utterance_of(told, taken, home, options, key=key)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        named.add(utterance.audio)
        yield utterance
    if taken is None:
        raise UserError(f"{manifest} has no rows")
    silent = Without(f"recording has no row in {manifest}", f"recordings have no row in {manifest}")
    for recording in files_below(home, SOUND):
        if os.path.normpath(recording) in named:
            continue
        if options.audio_root is None:
            key = safe_key(os.path.join(split, os.path.relpath(recording, home)))
            yield without_transcript(Utterance(key, str(recording), ""), f"it has no row in {manifest}")
        else:  # that folder may hold those of other manifests
            silent.add(recording)
    silent.say()


def _rows(manifest: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    return read_rows(manifest) if manifest.suffix == ".jsonl" else read_table(manifest)


def _manifests(root: Path) -> list[Path]:
    """In the folder itself, or else in those inside it."""
    for depth in (0, 1):
        found = [path for path in files_below(root, NAMES, depth) if path.name in NAMES]
        if found:
            return found
    return []


def _names_files(manifest: Path) -> bool:
    return FILE_NAME in (first_row(manifest) if manifest.suffix == ".jsonl" else first_line(manifest))
