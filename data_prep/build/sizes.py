"""Length and size of utterances by their headers alone, before anything is decoded."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from data_prep.addresses import is_remote
from data_prep.build.options import BuildOptions
from data_prep.build.prepare import Limits, header_of
from data_prep.progress import Progress
from data_prep.refusals import Refused
from data_prep.shards.index import BLOCK, padded
from data_prep.utterance import Utterance

BYTES_PER_SECOND = {"flac": 17_000, "opus": 3_500}  # of read speech, by media
METADATA_BYTES = 250  # of `<key>.json`, without the transcript and the corpus's own fields
SAMPLED = 200  # utterances, spread over the corpus, whose headers give an estimate for all
THREADS = 16  # a header on a network disk takes milliseconds, nearly all of them waiting
AHEAD = 8 * THREADS  # utterances whose headers are read at a time

Result = TypeVar("Result")


@dataclass(frozen=True)
class Sizes:
    """Lengths and sizes of N utterances; empty where they are not needed."""

    seconds: list[float] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    """In the tar, headers and padding included."""


def measure(corpus: Sequence[Utterance], options: BuildOptions) -> Sizes:
    """Sizes of the utterances if order or size of the shards depend on them; else none."""
    if not options.shard_bytes and options.shuffle in ("random", "none"):
        return Sizes()
    with Progress(len(corpus), label="read headers") as progress:
        only_seconds, sizes = not options.shard_bytes, Sizes()
        for seconds, size in in_threads(lambda u: _measured(u, options.limits, only_seconds), corpus):
            sizes.seconds.append(seconds)
            sizes.bytes.append(size)
            progress.advance()
    return sizes


def in_threads(function: Callable[[Utterance], Result], corpus: Sequence[Utterance]) -> Iterator[Result]:
    """`function` of each utterance, in order."""
    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(corpus), AHEAD):
            yield from pool.map(function, corpus[first : first + AHEAD])


def expected_bytes(corpus: Sequence[Utterance], sizes: Sizes, limits: Limits) -> int:
    """Of all shards, by the sizes measured, else by some utterances' durations and headers; 0 where none are known."""
    if sizes.bytes:
        return sum(sizes.bytes)
    sample = [u for u in corpus[:: -(-len(corpus) // SAMPLED)] if u.duration is not None or not _is_costly(u)]
    total = sum(_measured(utterance, limits, only_seconds=True)[1] for utterance in sample)
    return round(total * len(corpus) / max(1, len(sample)))


def _measured(utterance: Utterance, limits: Limits, only_seconds: bool) -> tuple[float, int]:
    """Seconds, and bytes in the tar: by the file's own if it will be copied, else estimated from the seconds.

    With `only_seconds`, or where the header is costly to read, a stated duration is enough. (0, 0) for an utterance
    whose header cannot be read: it will be refused.
    """
    seconds, recording_bytes = utterance.duration, 0
    if seconds is None or not (only_seconds or _is_costly(utterance)):
        try:
            seconds, recording_bytes = header_of(utterance, limits.allow_pipes, limits.media)
        except Refused:
            return 0.0, 0
    audio = recording_bytes or round(seconds * BYTES_PER_SECOND[limits.media])
    meta = METADATA_BYTES + len(utterance.text.encode("utf-8", "replace")) + len(str(utterance.meta))
    return seconds, 2 * BLOCK + padded(audio) + padded(meta)


def _is_costly(utterance: Utterance) -> bool:
    """Whether reading its header takes a download or a command."""
    return utterance.part == "pipe" or is_remote(utterance.audio)
