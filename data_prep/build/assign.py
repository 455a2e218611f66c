"""Which utterance goes into which shard, decided before any work starts, by keys, lengths and seed alone."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.addresses import without_secrets
from data_prep.build.options import BuildOptions, Layout
from data_prep.build.prepare import Limits
from data_prep.build.sizes import Sizes
from data_prep.durable import canonical_json
from data_prep.recordings.open import remote_sizes, size_of
from data_prep.shards.index import FORMAT, VERSION, shard_name
from data_prep.utterance import Utterance, to_row
from model.errors import UserError

LENGTH_CLASSES = 10  # of `stratified`: each holds as many utterances


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to write one shard."""

    path: Path
    utterances: tuple[Utterance, ...]
    limits: Limits
    recipe: str
    """sha256 hex of everything that decides the shard's bytes."""


def unique(utterances: Iterable[Utterance]) -> list[Utterance]:
    """All of them, in their order. UserError for a repeated key, and where there are none."""
    by_key: dict[str, Utterance] = {}
    for utterance in utterances:
        if utterance.key in by_key:
            both = f"{_origin(by_key[utterance.key])} and {_origin(utterance)}"
            raise UserError(
                f"key {utterance.key} is there twice: {both}; give each utterance its own, as by --column key=NAME"
            )
        by_key[utterance.key] = utterance
    if not by_key:
        raise UserError("there are no utterances; is the manifest or the corpus folder empty?")
    return list(by_key.values())


def assign(corpus: Sequence[Utterance], sizes: Sizes, out: Path, options: BuildOptions) -> list[ShardTask]:
    """The shards of `out`, in order."""
    speakers = [(utterance.language, utterance.speaker) for utterance in corpus]
    shards = divide([utterance.key for utterance in corpus], sizes, speakers, options)
    remote = remote_sizes(utterance.audio for utterance in corpus)
    tasks = []
    for number, numbers in enumerate(shards):
        utterances = tuple(corpus[i] for i in numbers)
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
    shards: list[list[int]] = []
    room = 0
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


def _origin(utterance: Utterance) -> str:
    audio = f"{without_secrets(utterance.audio)} {utterance.part}".strip()
    return f"{utterance.meta.get('id', utterance.key)!r} ({audio})"
