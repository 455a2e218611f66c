"""Hugging Face AudioFolder: metadata.csv or metadata.jsonl beside the recordings, or one for each split's folder.

Each row names its recording in `file_name`, relative to the metadata's folder; the other columns are as in any table.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.importers.parsing import rows
from data_prep.importers.parsing.files import chosen_splits, files_below, first_line
from data_prep.importers.parsing.importer import DEFAULTS, ImportOptions, Recording, faulty, report_unmatched
from data_prep.importers.table import read_table
from data_prep.utterance import Utterance, read_rows, safe_key
from model.errors import UserError

NAMES = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
FILE_NAME = "file_name"


def is_audiofolder(path: Path) -> bool:
    manifests = _manifests(path) if path.is_dir() else []
    firsts = (rows.first_row(path) if path.suffix == ".jsonl" else first_line(path) for path in manifests)
    return any(FILE_NAME in first for first in firsts)


def import_audiofolder(root: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """Split after split, in the order of the rows; the key is the recording's path in its split.

    A recording that no row names comes last, with that as the fault in its `part`, for the build to count as bad; with
    --audio-root such recordings are counted and reported. UserError: no metadata, two of them
    in one folder, several splits and none chosen, a row that is not as it must be."""
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
        yield from _of_split(by_split[split], split, options)


def _of_split(manifest: Path, split: str, options: ImportOptions) -> Iterator[Utterance]:
    home, named, is_jsonl = options.audio_root or manifest.parent, set[str](), manifest.suffix == ".jsonl"

    def utterance(row: dict[str, Any]) -> Utterance:
        if FILE_NAME not in row:
            raise UserError(f"no column {FILE_NAME!r}, which names the recording")
        columns = rows.columns_taken(row, options)
        recording = Recording(rows.audio_of(row[columns["audio"]], home, options))
        named.add(recording.audio)
        values = {**(row if is_jsonl else rows.with_numbers(row, columns)), **({"split": split} if split else {})}
        return rows.utterance_of(values, columns, recording, lambda *_: os.path.splitext(str(row[FILE_NAME]))[0])

    table = read_rows(manifest) if is_jsonl else read_table(manifest)
    yield from rows.utterances(table, utterance, f"{manifest} has no rows")
    unmatched = [recording for recording in files_below(home, rows.SOUND) if os.path.normpath(recording) not in named]
    if options.audio_root is not None:  # that folder may hold those of other manifests
        report_unmatched(unmatched, f"recording has no row in {manifest}", f"recordings have no row in {manifest}")
        return
    for recording in unmatched:
        key = safe_key(os.path.join(split, os.path.relpath(recording, home)))
        yield faulty(Utterance(key, str(recording), ""), "no-transcript", f"it has no row in {manifest}")


def _manifests(root: Path) -> list[Path]:
    """In the folder itself, or else in those inside it."""
    manifests = [path for path in files_below(root, NAMES, depth=1) if path.name in NAMES]
    return [path for path in manifests if path.parent == root] or manifests
