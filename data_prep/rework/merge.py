"""Several dataset directories as one: their tars under new numbers, or, with new keys, written anew."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.build.finish import Totals
from data_prep.figures import counted
from data_prep.rework.copying import CopyTask, copy_all
from data_prep.rework.joined import concatenate, extension_of, open_all, part_of, require_own_keys
from data_prep.shards.index import ShardIndex, columns_path, shard_name
from data_prep.shards.opening import require_plain
from data_prep.utterance import KEY, safe_key
from model.errors import UserError


def merge(
    roots: Sequence[Path | str],
    out: Path,
    copy: bool = False,
    prefixes: Sequence[str] | None = None,
    workers: int = 1,
    overwrite: bool = False,
) -> Totals:
    """Merges `roots`, in their order, into the dataset directory `out`, or goes on with it.

    Links share their bytes with the old directories; where the file system has none, with `copy`, and from an address
    tars are copied and held against their hash. With `prefixes`, one a directory, each key becomes `PREFIX_KEY`; as
    keys are names in the tars, those are written anew.

    UserError: directories that do not fit together, a key in two of them, prefixes that cannot be, `out` taken, a full
    disk, a tar that changed since it was made.
    """
    indexes = open_all(roots, out)
    renamed = indexes if prefixes is None else _renamed(indexes, prefixes)
    require_own_keys(renamed, "choose other prefixes" if prefixes else "give each directory its own with --prefix-keys")
    index, extension = concatenate(indexes), extension_of(indexes)
    columns = _plain_columns(indexes) if prefixes is None else []
    keys = [key for source in renamed for key in source.key]
    tasks, ends = [], np.cumsum([shard.utterances for shard in index.shards])[:-1]
    for number, ids in enumerate(np.split(np.arange(len(index)), ends)):
        if not len(ids):  # an empty shard
            continue
        path, part = out / shard_name(len(tasks)), part_of(index, ids)
        if prefixes is None:
            tasks.append(CopyTask(path, part, columns=columns[number], link=not copy))
        else:
            tasks.append(CopyTask(path, part, extension, [keys[i] for i in ids]))
    options: dict[str, Any] = {"merged": [source.digest() for source in indexes]}
    options |= {} if prefixes is None else {"prefixes": list(prefixes)}
    return copy_all(out, index, tasks, options, (), workers if prefixes else 1, overwrite)


def _plain_columns(indexes: Sequence[ShardIndex]) -> list[Path]:
    """The columns of each shard. UserError for columns or a tar that are no plain file."""
    for index in indexes:
        for shard in () if index.address else index.shards:
            require_plain(index.root / shard.name)
    return [require_plain(columns_path(index.root / shard.name)) for index in indexes for shard in index.shards]


def _renamed(indexes: Sequence[ShardIndex], prefixes: Sequence[str]) -> list[ShardIndex]:
    wrong = [prefix for prefix in prefixes if not KEY.fullmatch(prefix)]
    if wrong or len(prefixes) != len(indexes):
        given = counted(len(prefixes), "prefix", "prefixes")
        fault = f"prefix {wrong[0]!r} is not of A-Z a-z 0-9 _ -" if wrong else given
        directories = counted(len(indexes), "directory", "directories")
        raise UserError(f"{fault} for {directories}; give each one with --prefix-keys NAME,NAME")
    return [
        replace(index, key=[safe_key(f"{prefix}_{key}") for key in index.key])
        for prefix, index in zip(prefixes, indexes, strict=True)
    ]
