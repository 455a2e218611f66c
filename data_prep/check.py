"""Reads every byte of a dataset directory and names what is wrong with it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from data_prep.index import ShardIndex, columns_path, read_index, read_listing
from data_prep.progress import Progress
from data_prep.reader import frames, wave_of
from data_prep.shards import read_sample, walk
from model.errors import UserError

MEND = "delete {} and run the command that built it again: only what is missing is made"


def check(root: str | os.PathLike[str], progress: Progress | None = None) -> list[str]:
    """One line for each thing found wrong, none if all is well. UserError only if `root` is no dataset directory.

    Hash of each tar and of its columns; each header against the index; each utterance read and decoded.
    """
    root = Path(root)
    listing = read_listing(root)
    problems = [problem for shard in listing for problem in _check_file(root, shard.name, shard.sha256, shard.bytes)]
    try:
        index = read_index(root)
    except UserError as error:
        said = any(problem.split(":")[0] in str(error) for problem in problems)
        return problems if said else [*problems, str(error).split("; run ")[0]]
    with progress or Progress(len(index), label="check") as progress:
        for number in range(len(index.shards)):
            problems += _check_members(index, number, progress)
    return problems


def _check_file(root: Path, name: str, sha256: str, size: int) -> list[str]:
    path = root / name
    mend = MEND.format(name)
    if not path.is_file():
        return [f"{name}: missing; run the command that built it again"]
    if path.stat().st_size != size:
        return [f"{name}: {path.stat().st_size:,} bytes, the index says {size:,}; {mend}"]
    if not columns_path(path).is_file():
        return [f"{columns_path(path).name}: missing; run the command that built it again"]
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return [] if found == sha256 else [f"{name}: its bytes have changed since it was built (sha256); {mend}"]


def _check_members(index: ShardIndex, number: int, progress: Progress) -> list[str]:
    name = index.shards[number].name
    ids = np.flatnonzero(index.shard == number).tolist()
    problems = _check_headers(index, number, ids)
    for i in ids:
        try:
            sample = read_sample(index, i)
            if len(sample.meta["text"]) != index.characters[i]:
                problems.append(f"{name}, utterance {sample.key}: its transcript is not as long as the index says")
            (frames if index.kind == "features" else wave_of)(index, i, sample)
        except UserError as error:
            problems.append(str(error).split("; run ")[0])
        progress.advance()
    return problems


def _check_headers(index: ShardIndex, number: int, ids: list[int]) -> list[str]:
    """The tar's own list of members against the index, in order."""
    name = index.shards[number].name
    wanted = [(index.key[i], int(index.offset[i]), int(index.length[i])) for i in ids]
    wanted_meta = [(f"{index.key[i]}.json", int(index.meta_offset[i]), int(index.meta_length[i])) for i in ids]
    try:
        found = list(walk(index.path(number)))
    except ValueError as error:
        return [f"{name}: {error}"]
    media = [(member.rpartition(".")[0], offset, size) for member, offset, size in found[::2]]
    if media == wanted and found[1::2] == wanted_meta:
        return []
    return [f"{name}: its {len(found):,} members are not the {2 * len(ids):,} that the index lists"]
