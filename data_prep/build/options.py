"""What a person may say about a build, and what a build says when it is done."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from data_prep.build.assign import ORDERS
from data_prep.build.prepare import Limits
from model.errors import require_at_least, require_fraction, require_known


@dataclass(frozen=True)
class BuildOptions:
    """How the shards are made."""

    shard_size: int = 1000
    """Utterances a shard: about 200 MB of read speech."""
    seed: int = 0
    """Of the shuffle over shards, and of a split."""
    workers: int = 1
    """Processes. Changes nothing but the time."""
    max_bad: float = 0.01
    """Fraction of the corpus that may be bad before the build stops."""
    overwrite: bool = False
    """Replace what was built from other input or options."""
    limits: Limits = field(default_factory=Limits)
    shuffle: str = "random"
    """One of assign.ORDERS."""
    shard_bytes: int = 0
    """About so many bytes a shard, in place of `shard_size`; 0 for by number."""
    part: str = ""
    """Of a corpus built in parts: which one this is and how they were made; recorded, no more."""
    corpus: int = 0
    """Utterances of all parts, of which `max_bad` may be bad; 0 where there is but one."""
    bad_before: int = 0
    """Bad utterances that the parts built before have."""

    def __post_init__(self) -> None:
        for name, least in (("shard_size", 1), ("workers", 1), ("shard_bytes", 0)):
            require_at_least(name, getattr(self, name), least)
        require_fraction("max_bad", self.max_bad)
        require_known("shuffle", self.shuffle, ORDERS)

    def shaping(self) -> dict[str, Any]:
        """All that change what is written, by the rule of Limits.shaping."""
        new = {"shuffle": self.shuffle, "part": self.part}
        default = {item.name: item.default for item in fields(self)}
        size = {"shard_bytes": self.shard_bytes} if self.shard_bytes else {"shard_size": self.shard_size}
        changed = {name: value for name, value in new.items() if value != default[name]}
        return {**size, "seed": self.seed, **changed, **self.limits.shaping()}


@dataclass(frozen=True)
class Totals:
    """What a build gave."""

    utterances: int
    seconds: float
    bytes: int
    shards: int
    bad: dict[str, int]
    """Number by reason, of those in quarantine.jsonl."""
    dropped: dict[str, int]
    """Number by reason, of those in dropped.jsonl."""
    kept_shards: int = 0
    """Of `shards`, those found finished by an earlier, unfinished run."""
    already_built: bool = False
