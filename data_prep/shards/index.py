"""`ShardIndex`, the contract between shards and everything that reads them.

A dataset directory holds `shard-000000.tar`, its columns `shard-000000.idx.json` ... and `index.json`, which lists the
shards with their sizes and hashes and is written last: a directory without it is unfinished. files.py reads them.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.addresses import is_remote, resolve_address, without_secrets
from data_prep.durable import canonical_json, write_durably
from model.errors import UserError
from model.sample_rate import SAMPLE_RATE

FORMAT, VERSION = "slam-asr-shards", 1
INDEX_NAME = "index.json"
SHARD_NAME = re.compile(r"shard-[0-9]{6}\.tar")


class ShardError(UserError):
    """A shard that does not hold what its index says."""


@dataclass(frozen=True)
class ShardInfo:
    """One finished tar."""

    name: str
    bytes: int
    sha256: str
    utterances: int
    seconds: float
    columns_sha256: str
    source: str = ""
    """Path, relative to the index, of a tar indexed in place; its metadata is then in `shard-000000.meta`."""

    @property
    def label(self) -> str:
        """The tar in messages; an address is shown without its secrets."""
        return without_secrets(self.source) or self.name


def shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def columns_path(shard: Path) -> Path:
    """`shard-000000.idx.json` beside `shard-000000.tar`."""
    return shard.with_suffix(".idx.json")


def meta_path(shard: Path) -> Path:
    """`shard-000000.meta`: the metadata of a tar indexed in place, canonical JSON end to end."""
    return shard.with_suffix(".meta")


def tar_path(root: Path, info: ShardInfo) -> Path:
    return root / (info.source or info.name)


@dataclass(frozen=True)
class ShardIndex:
    """N utterances in S shards. Arrays have one entry an utterance, in the order of shards and of members in them."""

    root: Path
    kind: str
    """audio or features."""
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
    """Of a remote dataset: `s3://bucket/folder`, where the shards lie; `root` then holds copies of the index alone."""

    def __len__(self) -> int:
        return len(self.key)

    @property
    def seconds(self) -> float:
        """Of all audio."""
        return float(self.samples.sum()) / SAMPLE_RATE

    @property
    def media(self) -> str:
        """Format of the recordings: "flac" as `audio.encode_flac` makes it, "opus", or "any"."""
        return self.options.get("media", "flac")

    def digest(self) -> str:
        """sha256 hex over the shards' own: the identity of the data, wherever it lies."""
        identities = [shard.columns_sha256 + shard.sha256 if shard.source else shard.sha256 for shard in self.shards]
        return hashlib.sha256(canonical_json([self.kind, identities])).hexdigest()

    def location(self, shard: int) -> str:
        """The path of the tar, or its address."""
        return self.places[shard][0]

    @cached_property
    def places(self) -> list[tuple[str, Path | None]]:
        """The location of each shard, and the same as a path if it is local; needed for each utterance."""
        places = []
        for name in (shard.source or shard.name for shard in self.shards):
            local = name if is_remote(name) else str(self.root / name)
            place = resolve_address(self.address, name) if self.address else local
            places.append((place, None if is_remote(place) else Path(place)))
        return places

    def home(self, shard: int) -> str:
        """The path or the address of the shard's own dataset directory."""
        name = self.shards[shard].name
        return self.address or (name.rpartition("/")[0] if is_remote(name) else str((self.root / name).parent))

    def error(self, i: int, problem: str) -> ShardError:
        """What is wrong with utterance `i` in its shard, as an error to raise."""
        info, home = self.shards[self.shard[i]], self.home(self.shard[i])
        name = info.label if info.source else Path(info.name).name
        return ShardError(f'{name}, utterance {self.key[i]}: {problem}; run "slam-asr prep check {home}"')

    def placed(self, shard: int) -> ShardInfo:
        """The shard with absolute paths, to be read from an index with any other root."""
        info, place = self.shards[shard], self.location(shard)
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
