"""Which utterance goes into which shard, decided before any work starts, by keys, lengths and seed alone."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from data_prep.addresses import is_remote, without_secrets
from data_prep.build.prepare import Limits, header_of
from data_prep.build.workdir import require_room
from data_prep.durable import canonical_json
from data_prep.progress import Progress
from data_prep.recordings.open import remote_sizes, size_of
from data_prep.refusals import Refused
from data_prep.shards.index import BLOCK, FORMAT, VERSION, padded, shard_name
from data_prep.utterance import Utterance, to_row
from model.errors import UserError, require_at_least, require_fraction, require_known

LENGTH_CLASSES = 10  # of `stratified`: each holds as many utterances
BYTES_PER_SECOND = {"flac": 17_000, "opus": 3_500}  # of read speech, by media
METADATA_BYTES = 250  # of `<key>.json`, without the transcript and the corpus's own fields
SAMPLED = 200  # utterances, spread over the corpus, whose headers give an estimate for all
THREADS = 16  # a header on a network disk takes milliseconds, nearly all of them waiting
AHEAD = 8 * THREADS  # utterances whose headers are read at a time

Result = TypeVar("Result")
SHUFFLES = ("random", "stratified", "sorted", "none")
"""Random; every shard with nearly the same share of each language, length and speaker; every shard with utterances of
similar length; the order of the corpus. Each but the last is decided by `key_hash`."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Of every command that reads recordings or shards and writes a dataset directory."""

    workers: int = 1  # processes; changes nothing but the time
    overwrite: bool = False  # replace what was made from other input or options
    max_bad: float = 0.01  # fraction of the utterances that may be bad before it stops

    def __post_init__(self) -> None:
        require_at_least("workers", self.workers, 1)
        require_fraction("max_bad", self.max_bad)


@dataclass(frozen=True, kw_only=True)
class Layout(RunOptions):
    """Size and order of the shards that `prep build` and `prep reshard` write."""

    shard_size: int = 1000  # utterances a shard: about 200 MB of read speech
    shard_bytes: int = 0  # about so many bytes a shard, in place of `shard_size`; 0 for by number
    shuffle: str = "random"  # one of SHUFFLES
    seed: int = 0  # of the shuffle, and of a split

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("shard_size", self.shard_size, 1)
        require_at_least("shard_bytes", self.shard_bytes, 0)
        require_known("shuffle", self.shuffle, SHUFFLES)

    def size_option(self) -> dict[str, int]:
        """The size that decides, by its name."""
        return {"shard_bytes": self.shard_bytes} if self.shard_bytes else {"shard_size": self.shard_size}


@dataclass(frozen=True, kw_only=True)
class BuildOptions(Layout):
    """How the shards are made."""

    limits: Limits = field(default_factory=Limits)
    part: str = ""  # of a corpus built in parts: which one this is and how they were made; recorded, no more
    corpus: int = 0  # utterances of all parts, of which `max_bad` may be bad; 0 where there is but one part
    bad_before: int = 0  # bad utterances of the parts built before

    def shaping(self) -> dict[str, Any]:
        """The options that change what is written, recorded by the rule of Limits.shaping."""
        changed = {} if self.shuffle == "random" else {"shuffle": self.shuffle}
        changed |= {"part": self.part} if self.part else {}
        return {**self.size_option(), "seed": self.seed, **changed, **self.limits.shaping()}


@dataclass(frozen=True)
class Sizes:
    """Lengths and sizes of N utterances; empty where they are not needed."""

    seconds: list[float] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)  # in the tar, headers and padding included


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to write one shard."""

    path: Path
    utterances: tuple[Utterance, ...]
    limits: Limits
    recipe: str  # sha256 hex of everything that decides the shard's bytes


def unique(utterances: Iterable[Utterance]) -> list[Utterance]:
    """All of them, in their order. UserError for a repeated key, and where there are none."""
    by_key: dict[str, Utterance] = {}
    for utterance in utterances:
        if utterance.key in by_key:
            both = " and ".join(
                f"{u.meta.get('id', u.key)!r} ({f'{without_secrets(u.audio)} {u.part}'.strip()})"
                for u in (by_key[utterance.key], utterance)
            )
            raise UserError(
                f"key {utterance.key} is there twice: {both}; give each utterance its own, as by --column key=NAME"
            )
        by_key[utterance.key] = utterance
    if not by_key:
        raise UserError("there are no utterances; is the manifest or the corpus folder empty?")
    return list(by_key.values())


def assign(corpus: Sequence[Utterance], out: Path, options: BuildOptions) -> list[ShardTask]:
    """The shards of `out`, in order. UserError where there is no room for them."""
    sizes, only_seconds = Sizes(), not options.shard_bytes
    if options.shard_bytes or options.shuffle in ("stratified", "sorted"):
        with Progress(len(corpus), label="read headers") as progress:
            for seconds, size in in_threads(lambda u: _measured(u, options.limits, only_seconds), corpus):
                sizes.seconds.append(seconds)
                sizes.bytes.append(size)
                progress.advance()
        require_room(out, sum(sizes.bytes))
    else:  # by the durations and headers of some; 0 where none are known
        sample = [u for u in corpus[:: -(-len(corpus) // SAMPLED)] if u.duration is not None or not _is_costly(u)]
        total = sum(_measured(u, options.limits, only_seconds)[1] for u in sample)
        require_room(out, round(total * len(corpus) / max(1, len(sample))))
    speakers = [(utterance.language, utterance.speaker) for utterance in corpus]
    shards = divide([utterance.key for utterance in corpus], sizes, speakers, options)
    remote, tasks = remote_sizes(utterance.audio for utterance in corpus), []
    for number, ids in enumerate(shards):
        utterances = tuple(corpus[i] for i in ids)
        recipe = _recipe(utterances, options.limits, remote)
        tasks.append(ShardTask(out / shard_name(number), utterances, options.limits, recipe))
    return tasks


def key_hash(seed: int, key: str) -> bytes:
    """32 bytes to order and divide by: the same on every machine, whatever else is in the corpus."""
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


def divide(keys: Sequence[str], sizes: Sizes, speakers: Sequence[tuple[str, str]], layout: Layout) -> list[list[int]]:
    """The numbers of each shard's utterances, in their order; `speakers`: language and speaker, for `stratified`."""
    hashes = [key_hash(layout.seed, key) for key in keys]
    numbers = list(range(len(keys)))
    if layout.shuffle == "random":
        numbers.sort(key=hashes.__getitem__)
    elif layout.shuffle != "none":
        numbers.sort(key=lambda i: (sizes.seconds[i], hashes[i]))
    if layout.shuffle == "stratified":
        length_class = {i: rank * LENGTH_CLASSES // len(keys) for rank, i in enumerate(numbers)}
        numbers.sort(key=lambda i: (speakers[i][0], length_class[i], speakers[i][1], hashes[i]))
        total, most = (sum(sizes.bytes), layout.shard_bytes) if layout.shard_bytes else (len(keys), layout.shard_size)
        count = min(len(keys), max(1, -(-total // most)))
        return [sorted(numbers[first::count], key=hashes.__getitem__) for first in range(count)]
    shards = _filled(numbers, sizes, layout)
    return sorted(shards, key=lambda shard: hashes[shard[0]]) if layout.shuffle == "sorted" else shards


def _filled(numbers: Sequence[int], sizes: Sizes, layout: Layout) -> list[list[int]]:
    """In this order, each shard as full as it may be."""
    shards, room = list[list[int]](), 0
    for i in numbers:
        need = sizes.bytes[i] if layout.shard_bytes else 1
        if not shards or need > room:
            shards.append([])
            room = layout.shard_bytes or layout.shard_size
        shards[-1].append(i)
        room -= need
    return shards


def _recipe(utterances: Sequence[Utterance], limits: Limits, remote: Mapping[str, int]) -> str:
    digest = hashlib.sha256(canonical_json([FORMAT, VERSION, limits.shaping()]))
    for utterance in utterances:
        if utterance.part == "pipe":
            audio: str | int = utterance.audio  # the command itself, as its output is not known
        else:
            audio = remote[utterance.audio] if utterance.audio in remote else size_of(utterance.audio, utterance.part)
        row = to_row(utterance) | {"audio": audio}  # of a file the size: its path may change
        try:
            digest.update(canonical_json(row))
        except ValueError:  # half a surrogate pair, NaN: it will be refused, by name
            digest.update(repr(sorted(row.items())).encode("ascii", "backslashreplace"))
    return digest.hexdigest()


def in_threads(function: Callable[[Utterance], Result], corpus: Sequence[Utterance]) -> Iterator[Result]:
    """`function` of each utterance, in order."""
    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(corpus), AHEAD):
            yield from pool.map(function, corpus[first : first + AHEAD])


def _measured(utterance: Utterance, limits: Limits, only_seconds: bool) -> tuple[float, int]:
    """Seconds, and bytes in the tar: by the file's own if it will be copied, else estimated from the seconds.

    With `only_seconds`, or where the header is costly to read, a stated duration is enough. (0, 0) for an utterance
    whose header cannot be read: it will be refused."""
    seconds, recording_bytes = utterance.duration, 0
    if seconds is None or not (only_seconds or _is_costly(utterance)):
        try:
            seconds, recording_bytes = header_of(utterance, limits.allow_pipes, limits.media)
        except Refused:
            return 0.0, 0
    audio = recording_bytes or round(seconds * BYTES_PER_SECOND[limits.media])
    meta = METADATA_BYTES + len((utterance.text or "").encode("utf-8", "replace")) + len(str(utterance.meta))
    return seconds, 2 * BLOCK + padded(audio) + padded(meta)


def _is_costly(utterance: Utterance) -> bool:
    """Whether reading its header takes a download or a command."""
    return utterance.part == "pipe" or is_remote(utterance.audio)
