"""Shards to batches: what training, scoring and feature building read, by utterance number, from any thread.

A micro-batch is one array: FLAC is decoded into it, frames are read into it by the system call itself, and nothing is
copied afterwards."""

import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.audio.decode import MAX_SECONDS, SAMPLE_RATE, AudioError, decode_media
from data_prep.shards.frames import as_frames, bytes_per_frame
from data_prep.shards.index import ShardIndex
from data_prep.shards.tar import Sample, read_into, read_sample
from model.batch import Batch, cumulative
from model.prompt import Prompt

MIN_BYTES = 1 << 20  # less than this is left to the allocator, which keeps it
MAX_FREE = 12  # blocks: as many as a loader reads ahead and its threads fill
GRAIN = 8  # sizes are rounded up to an eighth of their power of two, so that the next micro-batch often fits


def read_batch(index: ShardIndex, ids: Sequence[int], prompt: Prompt) -> Batch:
    """Utterances `ids` of the index, in that order, packed. ShardError for bytes that are not what the index says."""
    cached = index.kind == "features"
    ends = np.cumsum([(_frame_bytes if cached else _count)(index, i) for i in ids]).tolist()
    memory, metas = _BUFFERS.empty(ends[-1], np.uint8 if cached else np.float32), []
    for i, start, end in zip(ids, [0, *ends], ends, strict=False):
        if cached:
            metas.append(read_into(index, i, memory.data[start:end]))
        else:
            sample = read_sample(index, i)
            _decode(index, i, sample.media, memory[start:end])
            metas.append(sample.meta)
    packed = as_frames(index.fingerprint, memory) if cached else torch.from_numpy(memory)
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


class Buffers:
    """Memory for micro-batches, reused once nothing refers to it any more; shared by threads without a lock. New memory
    costs as much as filling it: the system clears every page first, and takes it back when the batch is gone. Reuse
    measured a quarter less CPU time for cached frames. Nothing has to be returned: a tensor holds its array, and when
    the last tensor over it is gone, in whatever thread, its memory is free for the next."""

    def __init__(self, max_free: int = MAX_FREE) -> None:
        self._free: deque[np.ndarray] = deque(maxlen=max_free)  # full, it drops the block that was free longest

    def empty(self, count: int, dtype: Any) -> np.ndarray:
        """[count], not initialised. Pass on the array or tensors over it, no slice: slices do not hold it."""
        size = count * np.dtype(dtype).itemsize
        if size < MIN_BYTES:
            return np.empty(count, dtype)
        grain = (1 << (size.bit_length() - 1)) // GRAIN
        block = None
        with suppress(IndexError):  # another thread took the last one
            for _ in range(len(self._free)):
                free = self._free.popleft()
                if size <= free.nbytes < 2 * size:
                    block = free
                    break
                self._free.append(free)
        if block is None:
            block = np.empty(-(-size // grain) * grain, np.uint8)
        array = block[:size].view(dtype)
        weakref.finalize(array, self._free.append, block).atexit = False
        return array


_BUFFERS = Buffers()
