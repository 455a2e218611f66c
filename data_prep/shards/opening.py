"""Opening a dataset directory, local or at an address, and the tars that its index lists."""

from __future__ import annotations

import os
from pathlib import Path

from data_prep.addresses import is_remote
from data_prep.shards.cache import local_copy, read_remote_index
from data_prep.shards.files import read_files
from data_prep.shards.index import ShardIndex


def read_index(root: str | os.PathLike[str]) -> ShardIndex:
    """The index of a finished directory; of an address it is copied into the cache first.

    UserError for whatever does not agree: sizes of shards, hashes of columns (files.read_files).
    """
    return read_remote_index(os.fspath(root).rstrip("/")) if is_remote(root) else read_files(Path(root))


def shard_path(index: ShardIndex, shard: int) -> Path:
    """The tar on this machine; one that lies at an address is copied into the cache first."""
    place, path = index.places[shard]
    return local_copy(place, index.shards[shard].bytes, index.shards[shard].sha256) if path is None else path
