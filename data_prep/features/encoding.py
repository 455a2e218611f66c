"""Utterances to encoded frames as bytes: read, decoded, encoded and converted in threads, returned in order.

On a CPU each thread runs passes of its own with one core: sharing one small pass among cores makes it slower, ten times
slower where another process uses a core. There an utterance has the same bytes in any group, on any number of threads.
On a GPU the utterances of a group go through the transformer together, and threads read for the next groups meanwhile.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from data_prep.audio.decode import SAMPLE_RATE
from data_prep.shards.frames import to_bytes
from data_prep.shards.index import ShardIndex
from data_prep.shards.reader import wave_of
from data_prep.shards.tar import read_sample
from model.batch import cumulative
from model.encoders import Encoder
from model.errors import UserError

GPU_THREADS = 4  # one waits for the GPU, the others read
GROUP_UTTERANCES, GROUP_SECONDS = {"cpu": 8, "cuda": 64}, {"cpu": 60.0, "cuda": 240.0}


@dataclass(frozen=True)
class Encoded:
    """The frames of one utterance."""

    id: int  # its number in the index
    media: bytes
    frames: int
    meta: dict[str, Any]  # that of its audio


def encode_in_order(
    index: ShardIndex, encoder: Encoder, dtype: str, ids: Iterable[int], threads: int | None = None
) -> Generator[Encoded, None, None]:
    """The utterances `ids`, encoded in groups, in order.

    Groups are read a few ahead, of as many seconds of audio as the threads hold in full groups: a longer utterance is
    read when nothing else is. UserError for what cannot be read or kept, naming the utterance."""
    device = device_of(encoder)
    threads = threads or (torch.get_num_threads() if device.type == "cpu" else GPU_THREADS)
    limit = (threads + 1) * GROUP_SECONDS.get(device.type, 240.0)
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1))
    pending: deque[tuple[float, Future[list[Encoded]]]] = deque()
    groups = grouped(index, ids, device)
    following = next(groups, None)
    try:
        while following or pending:
            ahead = sum(seconds for seconds, _ in pending)
            if following and (not pending or (len(pending) <= threads and ahead + following[1] <= limit)):
                pending.append((following[1], pool.submit(_encode, index, encoder, dtype, following[0])))
                following = next(groups, None)
            else:
                yield from pending.popleft()[1].result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def grouped(index: ShardIndex, ids: Iterable[int], device: torch.device) -> Iterator[tuple[list[int], float]]:
    """`ids` in order, cut into groups by number and seconds; a longer utterance is a group of its own."""
    most, limit = GROUP_UTTERANCES.get(device.type, 64), GROUP_SECONDS.get(device.type, 240.0)
    group: list[int] = []
    seconds = 0.0
    for i in ids:
        more = int(index.samples[i]) / SAMPLE_RATE
        if group and (len(group) == most or seconds + more > limit):
            yield group, seconds
            group, seconds = [], 0.0
        group.append(i)
        seconds += more
    if group:
        yield group, seconds


def device_of(encoder: Encoder) -> torch.device:
    return next(encoder.parameters()).device


def _encode(index: ShardIndex, encoder: Encoder, dtype: str, ids: list[int]) -> list[Encoded]:
    """Of `ids`, in halves where the device has not the memory for all at once."""
    samples = [read_sample(index, i) for i in ids]
    waves = [wave_of(index, i, sample) for i, sample in zip(ids, samples, strict=True)]
    try:
        with torch.inference_mode():
            audio = torch.cat(waves).to(device_of(encoder))
            frames, frame_cu = encoder(audio, cumulative([len(wave) for wave in waves]))
            counts = frame_cu.diff().tolist()
            assert counts == [int(encoder.out_len(len(wave))) for wave in waves], "out_len does not describe forward"
            return [
                Encoded(i, to_bytes(own, dtype, sample.key), len(own), sample.meta)
                for i, sample, own in zip(ids, samples, frames.split(counts), strict=True)
            ]
    except torch.OutOfMemoryError:
        if len(ids) == 1:
            raise UserError(
                f"utterance {samples[0].key} of {len(waves[0]) / SAMPLE_RATE:,.0f} s needs more memory than the device "
                "has; build without such long ones (--max-seconds), or encode on another device"
            ) from None
    half = len(ids) // 2
    return _encode(index, encoder, dtype, ids[:half]) + _encode(index, encoder, dtype, ids[half:])
