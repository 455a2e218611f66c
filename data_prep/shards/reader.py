"""Shards to batches: what training, scoring and feature building read, by utterance number, from any thread.

A micro-batch is one array (buffers.py): FLAC is decoded into it, frames are read into it by the system call itself, and
nothing is copied afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.audio.decode import MAX_SECONDS, SAMPLE_RATE, AudioError, decode_media
from data_prep.shards.buffers import Buffers
from data_prep.shards.frames import as_frames, bytes_per_frame
from data_prep.shards.index import ShardIndex
from data_prep.shards.tar import Sample, read_into, read_sample
from model.batch import Batch, cumulative
from model.prompt import Prompt

_BUFFERS = Buffers()


def read_batch(index: ShardIndex, ids: Sequence[int], prompt: Prompt) -> Batch:
    """Utterances `ids` of the index, in that order, packed. ShardError for bytes that are not what the index says."""
    cached = index.kind == "features"
    packed, metas = (_packed_frames if cached else _packed_waves)(index, ids)
    cu, none = cumulative((index.frames if cached else index.samples)[ids].tolist()), cumulative([0] * len(ids))
    texts = [meta["text"] for meta in metas]
    targets = [prompt.target_ids(text) for text in texts]
    return Batch(
        keys=tuple(index.key[i] for i in ids),
        texts=tuple(texts),
        audio=None if cached else packed,
        audio_cu=none if cached else cu,
        features=packed if cached else None,
        feature_cu=cu if cached else none,
        targets=torch.tensor([token for tokens in targets for token in tokens], dtype=torch.int64),
        target_cu=cumulative([len(tokens) for tokens in targets]),
    )


def frames(index: ShardIndex, i: int, sample: Sample) -> Tensor:
    """[T, D] in the stored dtype, of a feature sample."""
    assert len(sample.media) == _frame_bytes(index, i)
    return as_frames(index.fingerprint, np.frombuffer(sample.media, np.uint8))


def wave_of(index: ShardIndex, i: int, sample: Sample) -> Tensor:
    """Float32 [N], 16 kHz, of an audio sample."""
    wave = np.empty(_count(index, i), np.float32)
    _decode(index, i, sample.media, wave)
    return torch.from_numpy(wave)


def _packed_waves(index: ShardIndex, ids: Sequence[int]) -> tuple[Tensor, list[dict[str, Any]]]:
    """Float32 [sum N], and the metadata of each."""
    ends = np.cumsum([_count(index, i) for i in ids]).tolist()
    packed, metas = _BUFFERS.empty(ends[-1], np.float32), []
    for i, start, end in zip(ids, [0, *ends], ends, strict=False):
        sample = read_sample(index, i)
        _decode(index, i, sample.media, packed[start:end])
        metas.append(sample.meta)
    return torch.from_numpy(packed), metas


def _packed_frames(index: ShardIndex, ids: Sequence[int]) -> tuple[Tensor, list[dict[str, Any]]]:
    """[sum T, D] in the stored dtype, and the metadata of each."""
    ends = np.cumsum([_frame_bytes(index, i) for i in ids]).tolist()
    packed = _BUFFERS.empty(ends[-1], np.uint8)
    view = packed.data
    metas = [read_into(index, i, view[start:end]) for i, start, end in zip(ids, [0, *ends], ends, strict=False)]
    return as_frames(index.fingerprint, packed), metas


def _frame_bytes(index: ShardIndex, i: int) -> int:
    """Bytes of an utterance's frames. ShardError if the index contradicts itself."""
    count, length = int(index.frames[i]), int(index.length[i])
    try:
        dim = index.fingerprint["dim"]
        frame_bytes = bytes_per_frame(int(dim), index.fingerprint["feature_dtype"])
    except (KeyError, TypeError, ValueError):
        raise index.error(i, "its index does not say what a frame is") from None
    if length != count * frame_bytes:
        raise index.error(i, f"{length:,} bytes, the index says {count} frames of {dim}")
    return length


def _count(index: ShardIndex, i: int) -> int:
    """Samples of an utterance. ShardError for more than any utterance has."""
    count = int(index.samples[i])
    if count > MAX_SECONDS * SAMPLE_RATE:
        raise index.error(i, f"its index declares {count:,} samples for it")
    return count


def _decode(index: ShardIndex, i: int, media: bytearray, wave: np.ndarray) -> None:
    try:
        decode_media(media, index.media, wave)
    except AudioError as error:
        raise index.error(i, str(error)) from None
