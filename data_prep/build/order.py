"""The order of utterances and their division into shards, by keys, lengths and seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from model.errors import require_at_least, require_known

SHUFFLES = ("random", "stratified", "sorted", "none")
"""Random; every shard with nearly the same share of each language, length and speaker; every shard with utterances of
similar length; the order of the corpus. Each but the last is decided by `key_hash`."""
LENGTH_CLASSES = 10  # of `stratified`: each holds as many utterances


@dataclass(frozen=True)
class Layout:
    """Size and order of the shards that `prep build` and `prep reshard` write."""

    shard_size: int = 1000
    """Utterances a shard: about 200 MB of read speech."""
    shard_bytes: int = 0
    """About so many bytes a shard, in place of `shard_size`; 0 for by number."""
    shuffle: str = "random"
    """One of SHUFFLES."""
    seed: int = 0
    """Of the shuffle, and of a split."""
    workers: int = 1
    """Processes. Changes nothing but the time."""
    overwrite: bool = False
    """Replace what was made from other input or options."""

    def __post_init__(self) -> None:
        for name, least in (("shard_size", 1), ("shard_bytes", 0), ("workers", 1)):
            require_at_least(name, getattr(self, name), least)
        require_known("shuffle", self.shuffle, SHUFFLES)

    def size_option(self) -> dict[str, int]:
        """The size that decides, by its name."""
        return {"shard_bytes": self.shard_bytes} if self.shard_bytes else {"shard_size": self.shard_size}


@dataclass(frozen=True)
class Sizes:
    """Lengths and sizes of N utterances; empty where they are not needed."""

    seconds: Sequence[float] = field(default_factory=list)
    bytes: Sequence[int] = field(default_factory=list)
    """In the tar, headers and padding included."""


def key_hash(seed: int, key: str) -> bytes:
    """32 bytes to order and divide by: the same on every machine, whatever else is in the corpus."""
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


def divide(keys: Sequence[str], sizes: Sizes, speakers: Sequence[tuple[str, str]], layout: Layout) -> list[list[int]]:
    """The numbers of each shard's utterances, in their order; `speakers`: language and speaker, for `stratified`."""
    hashes = [key_hash(layout.seed, key) for key in keys]
    numbers = list(range(len(keys)))
    if layout.shuffle == "random":
        numbers.sort(key=hashes.__getitem__)
    elif layout.shuffle != "none":
        numbers.sort(key=lambda i: (sizes.seconds[i], hashes[i]))
    if layout.shuffle == "stratified":
        length_class = {i: rank * LENGTH_CLASSES // len(keys) for rank, i in enumerate(numbers)}
        numbers.sort(key=lambda i: (speakers[i][0], length_class[i], speakers[i][1], hashes[i]))
        total, most = (sum(sizes.bytes), layout.shard_bytes) if layout.shard_bytes else (len(keys), layout.shard_size)
        count = min(len(keys), max(1, -(-total // most)))
        return [sorted(numbers[first::count], key=hashes.__getitem__) for first in range(count)]
    shards = _filled(numbers, sizes, layout)
    return sorted(shards, key=lambda shard: hashes[shard[0]]) if layout.shuffle == "sorted" else shards


def _filled(numbers: Sequence[int], sizes: Sizes, layout: Layout) -> list[list[int]]:
    """In this order, each shard as full as it may be."""
    shards: list[list[int]] = []
    room = 0
    for i in numbers:
        need = sizes.bytes[i] if layout.shard_bytes else 1
        if not shards or need > room:
            shards.append([])
            room = layout.shard_bytes or layout.shard_size
        shards[-1].append(i)
        room -= need
    return shards
