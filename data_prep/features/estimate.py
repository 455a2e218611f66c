"""What a feature cache takes: bytes by arithmetic, time by encoding a sample, and the space on the disk."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.audio.decode import SAMPLE_RATE
from data_prep.features.encoding import GROUP_SECONDS, device_of, encode_in_order
from data_prep.figures import in_units
from data_prep.paths import free_bytes
from data_prep.shards.coverage import Coverage, cache_fingerprint
from data_prep.shards.frames import bytes_per_frame
from data_prep.shards.index import BLOCK, ShardIndex, padded
from data_prep.shards.tar import RECORD
from model.encoders import Encoder
from model.errors import UserError

SAMPLE_SECONDS = {"cpu": 20.0, "cuda": 2 * GROUP_SECONDS["cuda"]}  # of audio that is encoded to measure the speed


@dataclass(frozen=True)
class Estimate:
    """Of what is missing in the directory."""

    utterances: int
    audio_seconds: float
    bytes: int
    """Of the tars."""
    free_bytes: int
    """On the disk."""
    speed: float
    """Seconds of audio that this rank encodes in a second; 0 if there is nothing to do."""
    hours: float
    """Until all ranks are done, if they are as fast as this one."""


def estimate(index: ShardIndex, encoder: Encoder, out: Path, dtype: str, ranks: int, threads: int | None) -> Estimate:
    """Encodes a few utterances to measure the speed, and throws them away. UserError for one that cannot be read."""
    fingerprint = cache_fingerprint(encoder.fingerprint(), dtype)
    missing = np.flatnonzero(~Coverage(out, index, fingerprint).covered)
    seconds = float(index.samples[missing].sum()) / SAMPLE_RATE
    speed = _measure(index, encoder, dtype, missing.tolist(), threads) if len(missing) else 0.0
    return Estimate(
        utterances=len(missing),
        audio_seconds=seconds,
        bytes=bytes_of(index, encoder, dtype, missing),
        free_bytes=free_bytes(out),
        speed=speed,
        hours=seconds / speed / ranks / 3600 if speed else 0.0,
    )


def require_room(of: Estimate, out: Path, dtype: str) -> None:
    """UserError if the disk has less free than the cache takes."""
    if of.bytes > of.free_bytes:
        smaller = "" if dtype == "int8" else ", or keep them as int8 (--feature-dtype int8)"
        raise UserError(
            f"the features take {in_units(of.bytes)}, {out} has {in_units(of.free_bytes)} free; make room{smaller}"
        )


def bytes_of(index: ShardIndex, encoder: Encoder, dtype: str, ids: np.ndarray) -> int:
    """Bytes of the tars with the frames of `ids`, each audio shard's in a tar: exact."""
    if not len(ids):
        return 0
    frames = np.asarray(encoder.out_len(index.samples[ids]), np.int64)
    added = len(f',"dim":{encoder.dim},"frames":') + np.char.str_len(frames.astype(str))
    media, meta = frames * bytes_per_frame(encoder.dim, dtype), index.meta_length[ids] + added
    each = 2 * BLOCK + padded(media) + padded(meta)
    tars = np.bincount(index.shard[ids], each).astype(np.int64)
    return int(padded(tars[tars > 0] + 2 * BLOCK, RECORD).sum())


def _measure(index: ShardIndex, encoder: Encoder, dtype: str, ids: list[int], threads: int | None) -> float:
    """Seconds of audio a second, over some of `ids`, evenly spaced; the first, which is slower, is not counted."""
    wanted = SAMPLE_SECONDS.get(device_of(encoder).type, 20.0) * SAMPLE_RATE / float(index.samples[ids].mean())
    count = min(len(ids), max(1, round(wanted)))
    sample = [ids[i * len(ids) // count] for i in range(count)]
    list(encode_in_order(index, encoder, dtype, ids[:1], threads))
    began = time.monotonic()
    list(encode_in_order(index, encoder, dtype, sample, threads))
    return float(index.samples[sample].sum()) / SAMPLE_RATE / max(time.monotonic() - began, 1e-9)
