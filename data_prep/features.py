"""The frozen encoder run once: audio shards in, shards of its frames out, same keys, same places.

A member is `<key>.f16` or `<key>.bf16`: the frames [T, D], raw, little-endian. The index carries the encoder's
fingerprint, so that training with another encoder, layer or precision is refused. Goes on shard by shard if killed.
"""

from __future__ import annotations

import hashlib
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_prep import workplace
from data_prep.audio import SAMPLE_RATE
from data_prep.durable import canonical_json
from data_prep.frames import EXTENSIONS, FEATURE_DTYPES, to_bytes
from data_prep.index import FORMAT, VERSION, ShardIndex, ShardInfo, finished_shard, write_index
from data_prep.progress import Progress
from data_prep.reader import wave_of
from data_prep.shards import Sample, ShardWriter, read_sample
from model.batch import cumulative
from model.encoders import Encoder
from model.errors import UserError

GROUP = 8  # utterances a thread reads and encodes at a time, each on its own


@dataclass(frozen=True)
class FeatureTotals:
    """What a feature build gave."""

    utterances: int
    frames: int
    seconds: float
    bytes: int
    shards: int
    kept_shards: int = 0
    already_built: bool = False


def build_features(
    index: ShardIndex,
    encoder: Encoder,
    out: Path,
    dtype: str = "float16",
    progress: Progress | None = None,
    overwrite: bool = False,
) -> FeatureTotals:
    """Encodes every utterance of an audio index into `out`; frames are kept as `dtype`, float16 or bfloat16.

    UserError: the index holds features already, another sample rate, frames too large for float16, `out` taken.
    """
    _refuse_unfit(index, encoder, out, dtype)
    fingerprint = {**encoder.fingerprint(), "feature_dtype": dtype}
    options = {"audio": index.digest()}
    with workplace.claim(out, fingerprint, options, overwrite) as finished, workplace.disk_full_explained(out):
        if finished is not None:
            return FeatureTotals(**finished["totals"], already_built=True)
        shards, kept = [], 0
        with progress or Progress(len(index), label="features") as progress:
            for number in range(len(index.shards)):
                recipe = _recipe(index, number, fingerprint)
                shard = finished_shard(out / index.shards[number].name, recipe)
                kept += shard is not None
                if shard is not None:
                    progress.advance(shard.utterances)
                shards.append(shard or _encode_shard(index, number, encoder, out, dtype, recipe, progress))
        return _finish(index, encoder, out, shards, fingerprint, options, kept)


def _encode_shard(
    index: ShardIndex, number: int, encoder: Encoder, out: Path, dtype: str, recipe: str, progress: Progress
) -> ShardInfo:
    first = sum(shard.utterances for shard in index.shards[:number])
    ids = range(first, first + index.shards[number].utterances)
    with ShardWriter(out / index.shards[number].name) as writer:
        for group, samples, frames in _in_threads(index, encoder, ids):
            for i, sample, of_one in zip(group, samples, frames, strict=True):
                media = to_bytes(of_one, dtype, sample.key)
                meta = {**sample.meta, "frames": len(of_one), "dim": encoder.dim}
                writer.add(sample.key, EXTENSIONS[dtype], media, meta, int(index.samples[i]), len(of_one))
            progress.advance(len(group))
        return writer.close({"recipe": recipe})


def _in_threads(index: ShardIndex, encoder: Encoder, ids: range) -> Iterator[tuple[range, list[Sample], list[Tensor]]]:
    """Groups of utterances in order, each read and encoded in a thread of its own while the caller writes.

    Two threads keep an accelerator fed. On a CPU every core gets a thread with an encoder pass to itself: sharing one
    small pass among cores makes it slower, ten times so where another process wants a core too.
    """
    groups = deque(ids[start : start + GROUP] for start in range(0, len(ids), GROUP))
    on_cpu = next(encoder.parameters()).device.type == "cpu"
    threads = torch.get_num_threads() if on_cpu else 2
    before = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as pool:
        coming: deque[Future[Any]] = deque()
        while groups or coming:
            while groups and len(coming) <= threads:
                coming.append(pool.submit(_read_and_encode, index, encoder, groups.popleft()))
            yield coming.popleft().result()
    torch.set_num_threads(before)


def _read_and_encode(index: ShardIndex, encoder: Encoder, group: range) -> tuple[range, list[Sample], list[Tensor]]:
    """Samples of the group and the frames [T, D] of each, as long as `out_len` says."""
    samples = [read_sample(index, i) for i in group]
    waves = [wave_of(index, i, sample) for i, sample in zip(group, samples, strict=True)]
    device = next(encoder.parameters()).device
    with torch.inference_mode():
        frames, frame_cu = encoder(torch.cat(waves).to(device), cumulative([len(wave) for wave in waves]))
    counts = frame_cu.diff().tolist()
    assert counts == [int(encoder.out_len(len(wave))) for wave in waves], "out_len does not describe forward"
    return group, samples, list(frames.split(counts))


def _recipe(index: ShardIndex, number: int, fingerprint: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json([FORMAT, VERSION, index.shards[number].sha256, fingerprint])).hexdigest()


def _refuse_unfit(index: ShardIndex, encoder: Encoder, out: Path, dtype: str) -> None:
    assert sys.byteorder == "little", "frames are kept little-endian"
    if index.kind != "audio":
        raise UserError(f"{index.root} holds {index.kind}, an encoder needs audio; give what `prep build` made")
    if dtype not in FEATURE_DTYPES:
        raise UserError(f"feature dtype {dtype!r} is not known; known: {', '.join(FEATURE_DTYPES)}")
    if encoder.sample_rate != SAMPLE_RATE:
        raise UserError(f"the encoder hears {encoder.sample_rate} Hz, shards hold {SAMPLE_RATE} Hz; use another")
    if out.resolve() == index.root.resolve():
        raise UserError(f"{out} holds the audio itself; give another directory for its features")


def _finish(
    index: ShardIndex,
    encoder: Encoder,
    out: Path,
    shards: list[ShardInfo],
    fingerprint: dict[str, Any],
    options: dict[str, Any],
    kept: int,
) -> FeatureTotals:
    totals = FeatureTotals(
        utterances=len(index),
        frames=int(encoder.out_len(index.samples).sum()),
        seconds=round(index.seconds, 4),
        bytes=sum(shard.bytes for shard in shards),
        shards=len(shards),
        kept_shards=kept,
    )
    document = {name: value for name, value in asdict(totals).items() if name not in ("kept_shards", "already_built")}
    workplace.remove_stale(out, {shard.name for shard in shards})
    write_index(out, "features", shards, fingerprint, options, document)
    return totals
