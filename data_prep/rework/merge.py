"""Several dataset directories as one.

`merge` links the tars under new numbers, or copies them: none of their bytes change. `merge_renamed` gives the keys of
each directory a prefix; as keys are names in the tars, those are written anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.addresses import is_remote
from data_prep.build import workdir as workplace
from data_prep.durable import canonical_json, replacing, write_durably
from data_prep.figures import counted
from data_prep.progress import Progress
from data_prep.rework.copying import CopyTotals, copy_all, copy_task, declare
from data_prep.rework.joined import concatenate, extension_of, open_all, part_of, require_own_keys
from data_prep.shards.files import read_document, require_plain
from data_prep.shards.index import ShardIndex, ShardInfo, columns_path, shard_name
from data_prep.shards.opening import shard_path
from data_prep.utterance import KEY, safe_key
from model.errors import UserError

PIECE = 1 << 22  # bytes copied at a time


def merge(
    roots: Sequence[Path | str],
    out: Path,
    copy: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> CopyTotals:
    """Merges `roots`, in their order, into the dataset directory `out`, or goes on with it.

    Links share their bytes with the old directories; where the file system has none, with `copy`, and from an address
    tars are copied and held against their hash. UserError: directories that do not fit together, a key in two of them,
    `out` taken, a full disk, a tar that changed since it was made.
    """
    indexes = open_all(roots, out)
    require_own_keys(indexes, "give each directory its own with --prefix-keys NAME,NAME")
    extension_of(indexes)
    index = concatenate(indexes)
    columns = [require_plain(columns_path(one.root / shard.name)) for one in indexes for shard in one.shards]
    for one in indexes:
        for shard in () if one.address else one.shards:
            require_plain(one.root / shard.name)
    fingerprint = index.fingerprint if index.kind == "features" else {"input": index.digest()}
    options = {**index.options, "merged": [one.digest() for one in indexes]}
    with workplace.claim(out, fingerprint, options, overwrite) as finished:
        if finished is not None:
            return CopyTotals(**finished["totals"], already_done=True)
        shards = []
        with workplace.disk_full_explained(out), progress or Progress(len(index), label="merge") as progress:
            for number, shard in enumerate(index.shards):
                shards.append(_adopt(index, number, columns[number], out / shard_name(number), copy))
                progress.advance(shard.utterances)
        return declare(out, index.kind, shards, fingerprint, options, int(index.frames.sum()), [])


def merge_renamed(
    roots: Sequence[Path | str],
    out: Path,
    prefixes: Sequence[str],
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> CopyTotals:
    """As `merge`, with shards written anew, in which each key is `PREFIX_KEY`; one prefix a directory."""
    indexes = open_all(roots, out)
    wrong = [prefix for prefix in prefixes if not KEY.fullmatch(prefix)]
    if wrong or len(prefixes) != len(indexes):
        given = counted(len(prefixes), "prefix", "prefixes")
        found = f"prefix {wrong[0]!r} is not of A-Z a-z 0-9 _ -" if wrong else given
        directories = counted(len(indexes), "directory", "directories")
        raise UserError(f"{found} for {directories}; give each one with --prefix-keys NAME,NAME")
    renamed = [
        replace(index, key=[safe_key(f"{prefix}_{key}") for key in index.key])
        for prefix, index in zip(prefixes, indexes, strict=True)
    ]
    require_own_keys(renamed, "choose other prefixes")
    index, extension, keys = concatenate(indexes), extension_of(indexes), [key for one in renamed for key in one.key]
    ends = np.cumsum([shard.utterances for shard in index.shards])[:-1]
    tasks = [
        copy_task(out / shard_name(number), part_of(index, ids), extension, [keys[i] for i in ids])
        for number, ids in enumerate(np.split(np.arange(len(index)), ends))
    ]
    how = {"merged": [one.digest() for one in indexes], "prefixes": list(prefixes)}
    return copy_all(out, index, tasks, how, [], workers, overwrite, progress)


def _adopt(index: ShardIndex, number: int, columns: Path, path: Path, copy: bool) -> ShardInfo:
    """Shard `number` as the tar `path`, with its old columns but for its name; found so if it was left so."""
    shard = index.shards[number]
    document = read_document(columns)
    described = canonical_json({**document, "shard": {**document["shard"], "name": path.name}})
    info = replace(shard, name=path.name, columns_sha256=hashlib.sha256(described).hexdigest())
    if _is_there(path, shard.bytes) and _is_there(columns_path(path), len(described)):
        if columns_path(path).read_bytes() == described:
            return info
    columns_path(path).unlink(missing_ok=True)  # first: it vouches for the tar
    path.unlink(missing_ok=True)
    remote = is_remote(index.location(number))
    if copy or remote or not _linked(shard_path(index, number), path):
        _copy(shard_path(index, number), path, shard.sha256)
    write_durably(columns_path(path), described)
    return info


def _is_there(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _linked(source: Path, path: Path) -> bool:
    """False where it cannot be: another file system, or one without links."""
    try:
        os.link(source, path)
    except OSError:
        return False
    return True


def _copy(source: Path, path: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    with open(source, "rb") as old, replacing(path) as new:
        while piece := old.read(PIECE):
            digest.update(piece)
            new.write(piece)
        if digest.hexdigest() != sha256:
            raise UserError(f'{source} has changed since it was made; run "slam-asr prep check {source.parent}"')
