"""How long utterances are and how much room they take in a shard, by headers alone, before anything is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from data_prep.addresses import is_remote
from data_prep.build.prepare import Limits, header_of
from data_prep.progress import Progress
from data_prep.refusals import Refused
from data_prep.shards.columns import BLOCK, padded
from data_prep.utterance import Utterance
from data_prep.workers import Stopped, TaskCounts, run_all

BYTES_PER_SECOND = {"flac": 17_000, "opus": 3_500}  # of read speech, by media
METADATA_BYTES = 250  # of `<key>.json`, without the transcript and what the corpus says besides
CHUNK = 256  # utterances a task


class Size(NamedTuple):
    """Of one utterance."""

    seconds: float
    bytes: int
    """In the tar, headers and padding included."""


class Chunk(NamedTuple):
    """What a worker measures at a time."""

    utterances: Sequence[Utterance]
    limits: Limits
    only_seconds: bool


def measure(
    utterances: Sequence[Utterance], limits: Limits, workers: int, only_seconds: bool, progress: Progress | None = None
) -> list[Size]:
    """Size of each. Bytes are those of the file where it will be copied, else an estimate from the seconds.

    Headers are read for what the utterances do not state; with `only_seconds`, a stated duration is enough, as it is
    for what costs a download or a command to open. An utterance whose header cannot be read has no length: it will be
    refused.
    """
    chunks = [Chunk(utterances[i : i + CHUNK], limits, only_seconds) for i in range(0, len(utterances), CHUNK)]
    with progress or Progress(len(utterances), label="read headers") as progress:
        found = dict(run_all(_measure_chunk, chunks, workers, progress))
    return [size for number in range(len(chunks)) for size in found[number]]


def measure_one(utterance: Utterance, limits: Limits, only_seconds: bool) -> Size:
    """As `measure`."""
    if utterance.duration is not None and (only_seconds or is_costly(utterance)):
        return _estimate(utterance, utterance.duration, limits.media)
    try:
        seconds, recording_bytes = header_of(utterance, limits.allow_pipes, limits.media)
    except Refused:
        return Size(0.0, 0)
    return _estimate(utterance, seconds, limits.media, recording_bytes)


def is_costly(utterance: Utterance) -> bool:
    """Whether its header cannot be had without a download or a command."""
    return utterance.part == "pipe" or is_remote(utterance.audio)


def _estimate(utterance: Utterance, seconds: float, media: str, recording_bytes: int = 0) -> Size:
    """By its seconds, or by the bytes of the recording that is copied."""
    audio = recording_bytes or round(seconds * BYTES_PER_SECOND[media])
    meta = METADATA_BYTES + len(utterance.text.encode("utf-8", "replace")) + len(str(utterance.meta))
    return Size(seconds, 2 * BLOCK + padded(audio) + padded(meta))


def _measure_chunk(chunk: Chunk, tally: TaskCounts) -> list[Size]:
    if tally.stopped:
        raise Stopped
    sizes = [measure_one(utterance, chunk.limits, chunk.only_seconds) for utterance in chunk.utterances]
    tally.add(len(sizes))
    return sizes
