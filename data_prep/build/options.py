"""The options of `prep build` and `prep index`."""

from dataclasses import asdict, dataclass, field
from typing import Any

from data_prep.build.prepare import Limits
from data_prep.importers.webdataset import SampleOptions
from data_prep.text import require_normaliser
from model.errors import require_at_least, require_fraction, require_known

SHUFFLES = ("random", "stratified", "sorted", "none")
"""Random; every shard with nearly the same share of each language, length and speaker; every shard with utterances of
similar length; the order of the corpus. Each but the last is decided by `key_hash`."""


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
class BuildOptions(Layout):
    """How the shards are made."""

    max_bad: float = 0.01
    """Fraction of the corpus that may be bad before the build stops."""
    limits: Limits = field(default_factory=Limits)
    part: str = ""
    """Of a corpus built in parts: which one this is and how they were made; recorded, no more."""
    corpus: int = 0
    """Utterances of all parts, of which `max_bad` may be bad; 0 where there is but one part."""
    bad_before: int = 0
    """Bad utterances of the parts built before."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fraction("max_bad", self.max_bad)

    def shaping(self) -> dict[str, Any]:
        """The options that change what is written, recorded by the rule of Limits.shaping."""
        changed = {} if self.shuffle == "random" else {"shuffle": self.shuffle}
        changed |= {"part": self.part} if self.part else {}
        return {**self.size_option(), "seed": self.seed, **changed, **self.limits.shaping()}


@dataclass(frozen=True)
class ForeignOptions:
    """How tars of other programs are indexed in place."""

    samples: SampleOptions = field(default_factory=SampleOptions)
    normalise: str = "none"
    """One of text.NORMALISERS."""
    verify: bool = True
    """Decode every recording; else lengths are calculated from headers, and damage is found when it is trained on."""
    workers: int = 1
    """Processes. Changes nothing but the time."""
    max_bad: float = 0.01
    """Fraction of the samples that may be bad before it stops."""
    overwrite: bool = False
    """Replace what was indexed from other tars or with other options."""

    def __post_init__(self) -> None:
        require_normaliser(self.normalise)
        require_at_least("workers", self.workers, 1)
        require_fraction("max_bad", self.max_bad)

    def shaping(self) -> dict[str, Any]:
        """The options that change what is written."""
        return {"media": "any", "verify": self.verify, "normalise": self.normalise, **asdict(self.samples)}
