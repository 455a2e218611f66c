"""The frozen encoder run once: audio shards in, shards of its frames out, same keys, same order.

The index carries the encoder's fingerprint, so that training with another encoder, layer or precision is refused. The
steps, on each of R ranks, none of which waits for another:

1. find which utterances have their frames already, whoever wrote them (coverage.py);
2. take shards r, r + R ... of those with something missing, then any that no rank has taken (`_shards_to_do`);
3. encode the missing utterances of each (encoding.py), in order, into a shard of the same number;
4. the rank that finds nothing missing writes index.json (writer.py). A killed run goes on, on any number of ranks.

On a CPU the bytes are the same on any number of ranks and threads.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.audio.decode import SAMPLE_RATE
from data_prep.build.finish import Totals
from data_prep.build.room import disk_full_explained
from data_prep.features.encoding import Group, device_of, encode_in_order, grouped
from data_prep.features.folder import FeatureFolder, join
from data_prep.features.speed import Speed, device_name, write_speed
from data_prep.features.writer import OpenShard, finish_folder, loose_path
from data_prep.figures import counted
from data_prep.progress import Progress, Silent
from data_prep.shards.coverage import Coverage, cache_fingerprint
from data_prep.shards.frames import FEATURE_DTYPES, bytes_per_frame
from data_prep.shards.index import INDEX_NAME, ShardIndex, shard_name
from data_prep.shards.tar import MAX_MEDIA_BYTES
from model.encoders import Encoder
from model.errors import UserError, require_known


@dataclass(frozen=True)
class FeatureRun:
    """The work of one rank."""

    totals: Totals | None
    """Of the cache, if this rank finished it, or an earlier run had."""
    missing: int = 0
    """Utterances that other ranks are encoding, or left when they died."""
    utterances: int = 0
    """Encoded by this rank."""
    kept_shards: int = 0
    """Found finished at the start."""


@dataclass(frozen=True)
class FeatureRank:
    """This process among those that build one cache together."""

    rank: int = 0
    size: int = 1
    threads: int | None = None
    """Of this rank; None chooses."""


def build_features(
    index: ShardIndex,
    encoder: Encoder,
    out: Path,
    dtype: str = "float16",
    progress: Progress | None = None,
    overwrite: bool = False,
    rank: FeatureRank | None = None,
) -> FeatureRun:
    """Encodes the utterances of an audio index that are missing in `out`; frames are kept as `dtype`, a key of
    FEATURE_DTYPES.

    UserError: the index holds features already, another sample rate, an utterance under one frame, frames too large for
    the dtype, `out` taken, a full disk.
    """
    require_fit(index, encoder, out, dtype)
    rank = rank or FeatureRank()
    with join(out, cache_fingerprint(encoder.fingerprint(), dtype), {"audio": index.digest()}, overwrite) as folder:
        if folder.workdir.finished:
            return FeatureRun(folder.workdir.finished)
        build = _FeatureBuild(index, encoder, folder, dtype, rank)
        shown = progress or (Silent if rank.rank else Progress)(len(index), label="features")
        with shown as progress, disk_full_explained(out):
            build.encode_missing(progress)
            totals = finish_folder(folder, index, encoder.source)
    missing = 0 if totals or (out / INDEX_NAME).exists() else int((~build.coverage.covered).sum())
    return FeatureRun(totals, missing, build.utterances, build.kept_shards)


def require_fit(index: ShardIndex, encoder: Encoder, out: Path, dtype: str) -> None:
    """UserError unless this encoder can make a cache of this index in `out`."""
    assert sys.byteorder == "little", "frames are kept little-endian"
    if index.kind != "audio":
        raise UserError(f"{index.root} holds {index.kind}, an encoder needs audio; give what `prep build` made")
    require_known("feature dtype", dtype, FEATURE_DTYPES)
    if encoder.sample_rate != SAMPLE_RATE:
        raise UserError(f"the encoder expects {encoder.sample_rate} Hz, shards hold {SAMPLE_RATE} Hz; use another")
    if out.resolve() == index.root.resolve():
        raise UserError(f"{out} holds the audio itself; give another directory for its features")
    frames = encoder.out_len(index.samples)
    short = np.flatnonzero(frames < 1)
    if len(short):
        raise UserError(
            f"{counted(len(short), 'utterance is', 'utterances are')} too short for one frame, {index.key[short[0]]} "
            f"of {int(index.samples[short[0]]):,} samples first; build again with --min-seconds 0.1"
        )
    longest = int(np.argmax(frames)) if len(frames) else 0
    if len(frames) and int(frames[longest]) * bytes_per_frame(encoder.dim, dtype) > MAX_MEDIA_BYTES:
        raise UserError(
            f"the frames of utterance {index.key[longest]} would take more than {MAX_MEDIA_BYTES >> 20:,} MiB as "
            f"{dtype}; use another --feature-dtype, or build with a lower --max-seconds"
        )


class _FeatureBuild:
    """One rank's work on a cache."""

    def __init__(
        self, index: ShardIndex, encoder: Encoder, folder: FeatureFolder, dtype: str, rank: FeatureRank
    ) -> None:
        self.index, self.encoder, self.folder, self.dtype, self.rank = index, encoder, folder, dtype, rank
        self.fingerprint = folder.workdir.fingerprint
        self.coverage = Coverage(folder.out, index, self.fingerprint)
        self.kept_shards = len(self.coverage.shards)
        self.utterances, self.seconds = 0, 0.0

    def encode_missing(self, progress: Progress) -> None:
        """Until nothing is missing but what other ranks are encoding."""
        began, before = time.monotonic(), -1
        while before < self.utterances:
            before = self.utterances
            self._encode_once(progress)
        if self.seconds:
            speed = self.seconds / max(time.monotonic() - began, 1e-9)
            write_speed(self.folder.out, Speed(round(speed, 2), device_name(device_of(self.encoder)), self.rank.size))

    def _encode_once(self, progress: Progress) -> None:
        shard: OpenShard | None = None
        groups = encode_in_order(self.index, self.encoder, self.dtype, self._groups(), self.rank.threads)
        try:
            for group, encoded in groups:
                if shard is None:
                    shard = OpenShard(self._path(group.shard))
                for own in encoded:
                    meta = {**own.meta, "frames": own.frames, "dim": self.encoder.dim}
                    shard.add(self.index, own.id, self.dtype, own.media, meta)
                if group.last:
                    shard.publish(self.index, self.fingerprint)
                    shard = None
                    self.folder.release(group.shard)
                    self.coverage.refresh()
                    assert self.coverage.covered[group.ids].all(), "a shard that was just written does not count"
                self.utterances, self.seconds = self.utterances + len(encoded), self.seconds + group.seconds
                # of all ranks, and in hand:
                done = int(self.coverage.covered.sum()) + (0 if shard is None else len(shard))
                progress.advance(max(0, done - progress.done))
        finally:
            groups.close()
            if shard is not None:
                shard.drop()

    def _groups(self) -> Iterator[Group]:
        """Of one shard after the other, each taken when its first group is asked for."""
        device = device_of(self.encoder)
        for number, ids in self._shards_to_do():
            if self.folder.take(number):
                self.coverage.refresh()
                missing = self.coverage.missing(ids)
                yield from grouped(self.index, missing, device, number)
                if not missing:
                    self.folder.release(number)

    def _shards_to_do(self) -> list[tuple[int, range]]:
        """Audio shards with something missing, and their utterances: this rank's own, then the others' from the end."""
        self.coverage.refresh()
        ends = np.cumsum([info.utterances for info in self.index.shards]).tolist()
        shards = list(enumerate(range(start, end) for start, end in zip([0, *ends], ends, strict=False)))
        shards = [(number, ids) for number, ids in shards if self.coverage.missing(ids)]
        rank, size = self.rank.rank, self.rank.size
        if not self.folder.has_locks:  # all ranks must divide the shards alike, whenever they look
            return [shard for shard in shards if shard[0] % size == rank]
        others = [shard for i, shard in enumerate(shards) if i % size != rank]
        return shards[rank::size] + others[::-1]

    def _path(self, number: int) -> Path:
        """A shard of the audio shard's number, or a loose one where that number is taken."""
        out, taken = self.folder.out, shard_name(number) in self.coverage.shards
        return loose_path(out, self.rank.rank, self.rank.size) if taken else out / shard_name(number)
