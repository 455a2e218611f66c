"""Opening a dataset directory, here or at an address, and the tars that its index lists."""

from __future__ import annotations

import os
from pathlib import Path

from data_prep.addresses import is_remote
from data_prep.shards.cache import index_folder, local_copy
from data_prep.shards.index import ShardIndex, meta_path, read_files


def read_index(root: str | os.PathLike[str]) -> ShardIndex:
    """The index of a finished directory; of an address it is copied into the cache first.

    UserError for whatever does not agree: sizes of shards, hashes of columns (index.read_files).
    """
    if not is_remote(root):
        return read_files(Path(root))
    with index_folder(os.fspath(root).rstrip("/")) as (folder, address):
        return read_files(folder, address)


def shard_path(index: ShardIndex, shard: int) -> Path:
    """The tar on this machine; one that lies at an address is copied into the cache first."""
    place, path = index.places[shard]
    return local_copy(place, index.shards[shard].bytes, index.shards[shard].sha256) if path is None else path


def metadata_path(index: ShardIndex, shard: int) -> Path:
    """The file that `meta_offset` counts in."""
    info = index.shards[shard]
    return meta_path(index.root / info.name) if info.source else shard_path(index, shard)
