"""`ShardIndex`, the contract between shards and everything that reads them.

A dataset directory holds `shard-000000.tar`, its columns `shard-000000.idx.json` ... and `index.json`, which lists the
shards with their sizes and hashes and is written last: a directory without it is unfinished.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.addresses import is_remote, resolve_address
from data_prep.durable import canonical_json, write_durably
from data_prep.shards import files as index_files
from data_prep.shards.columns import COLUMNS
from data_prep.shards.files import (
    FORMAT,
    INDEX_NAME,
    KINDS,
    SHARD_NAME,
    VERSION,
    ShardInfo,
    columns_path,
    meta_path,
    read_document,
    shard_name,
    tar_path,
)
from model.errors import UserError
from model.sample_rate import SAMPLE_RATE

__all__ = [
    "FORMAT",
    "INDEX_NAME",
    "KINDS",
    "SHARD_NAME",
    "VERSION",
    "ShardIndex",
    "ShardInfo",
    "columns_path",
    "finished_shard",
    "meta_path",
    "read_document",
    "read_files",
    "read_listing",
    "shard_name",
    "write_index",
]


MEDIA = ("flac", "opus", "any")


@dataclass(frozen=True)
class ShardIndex:
    """N utterances in S shards. Arrays have one entry an utterance, in the order of shards and of members in them."""

    root: Path
    kind: str
    """One of KINDS."""
    shards: tuple[ShardInfo, ...]
    fingerprint: dict[str, Any]
    """What the content depends on: of audio, a hash of the input; of features, the encoder and its settings."""
    options: dict[str, Any]
    totals: dict[str, Any]
    key: list[str]
    shard: np.ndarray
    """int32 [N]: position in `shards`."""
    offset: np.ndarray
    length: np.ndarray
    meta_offset: np.ndarray
    meta_length: np.ndarray
    crc32: np.ndarray
    samples: np.ndarray
    frames: np.ndarray
    characters: np.ndarray
    text_bytes: np.ndarray
    address: str = ""
    """Where the shards lie, if not in `root`: `s3://bucket/folder`; `root` then holds copies of the index alone."""

    def __len__(self) -> int:
        return len(self.key)

    @property
    def seconds(self) -> float:
        """Of all audio."""
        return float(self.samples.sum()) / SAMPLE_RATE

    @property
    def media(self) -> str:
        """What an utterance of an audio index is: "flac" as `audio.encode_flac` makes it, or of any other format."""
        return self.options.get("media", "flac")

    @cached_property
    def _digest(self) -> str:
        identities = [shard.columns_sha256 + shard.sha256 if shard.source else shard.sha256 for shard in self.shards]
        return hashlib.sha256(canonical_json([self.kind, identities])).hexdigest()

    def digest(self) -> str:
        """sha256 hex over the shards' own: the identity of the data, whatever its place."""
        return self._digest

    def location(self, shard: int) -> str:
        """The path of the tar, or its address."""
        return self.places[shard][0]

    @cached_property
    def places(self) -> list[tuple[str, Path | None]]:
        """The location of each shard, and the same as a path if it is one: made once, asked for each utterance."""
        places = []
        for name in (shard.source or shard.name for shard in self.shards):
            place = (
                resolve_address(self.address, name)
                if self.address
                else name
                if is_remote(name)
                else str(self.root / name)
            )
            places.append((place, None if is_remote(place) else Path(place)))
        return places

    def home(self, shard: int) -> str:
        """The path or the address of the shard's own dataset directory."""
        name = self.shards[shard].name
        return self.address or (name.rpartition("/")[0] if is_remote(name) else str((self.root / name).parent))

    def placed(self, shard: int) -> ShardInfo:
        """The shard by its whole paths, to be read from an index with any other root."""
        info = self.shards[shard]
        place = self.location(shard)
        tar = place if is_remote(place) else str(Path(place).resolve())
        if info.source:
            return replace(info, name=str((self.root / info.name).resolve()), source=tar)
        return replace(info, name=tar)


def write_index(
    root: Path,
    kind: str,
    shards: list[ShardInfo],
    fingerprint: dict[str, Any],
    options: dict[str, Any],
    totals: dict[str, Any],
) -> None:
    """Declares the directory finished."""
    listed = [{name: value for name, value in asdict(shard).items() if name != "source" or value} for shard in shards]
    document: dict[str, Any] = {"format": FORMAT, "version": VERSION, "kind": kind, "shards": listed}
    document |= {"fingerprint": fingerprint, "options": options, "totals": totals}
    write_durably(root / INDEX_NAME, canonical_json(document, indent=1) + b"\n")


def read_files(root: Path, address: str = "") -> ShardIndex:
    """The index whose files lie in `root`, checked against the sizes of its shards and the hashes of its columns.

    Of an `address` they are copies, and the sizes of the shards are seen when they are. UserError for whatever does not
    agree; the bytes inside the tars are checked when they are read.
    """
    document = index_files.document_of(root)
    if document["options"].get("media", "flac") not in MEDIA:  # it names files of exports
        raise index_files.stale(root, f"media {str(document['options']['media'])[:40]!r} is none of {', '.join(MEDIA)}")
    infos = tuple(index_files.shard_info(root, entry) for entry in document["shards"])
    for info in () if address else infos:
        index_files.require_size(root, info)
    parts = [index_files.columns_of(root, info) for info in infos]
    keys = [key for part in parts for key in part["key"]]
    if len(set(keys)) != len(keys):
        raise index_files.stale(root, "its index holds a key twice")
    columns: dict[str, Any] = {
        name: np.concatenate([np.zeros(0, kind), *(part[name] for part in parts)]) for name, kind in COLUMNS.items()
    }
    columns |= {name: document[name] for name in ("kind", "fingerprint", "options", "totals")}
    shard = np.repeat(np.arange(len(infos), dtype=np.int32), [info.utterances for info in infos])
    return ShardIndex(root=root, shards=infos, key=keys, shard=shard, address=address, **columns)


def read_listing(root: Path) -> list[ShardInfo]:
    """The shards that index.json names, with nothing checked but its own form."""
    return [index_files.shard_info(root, entry) for entry in index_files.document_of(root)["shards"]]


def finished_shard(path: Path, recipe: str, source: str = "") -> ShardInfo | None:
    """A shard that its own columns show to be complete and made by this very `recipe`; None if there is none.

    `source`: where its tar lies, if it is not ours; the columns do not name it, so that they do not depend on a place.
    """
    try:
        document = read_document(columns_path(path))
        shard = ShardInfo(**document["shard"], columns_sha256="", source=source)
        if document["recipe"] != recipe or tar_path(path.parent, shard).stat().st_size != shard.bytes:
            return None
        found = hashlib.sha256(columns_path(path).read_bytes()).hexdigest()
        return replace(shard, columns_sha256=found)
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None
