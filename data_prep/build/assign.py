"""Which utterance goes where: decided before any work starts, by keys, lengths and seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data_prep.addresses import without_secrets
from data_prep.build.lengths import Size
from data_prep.build.prepare import Limits
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


class Packing(NamedTuple):
    """How full a shard gets."""

    utterances: int
    bytes: int
    """Of its tar, about; 0 where the number of utterances decides."""


class Placed(NamedTuple):
    """An utterance that waits for its shard."""

    utterance: Utterance
    size: Size
    chance: bytes
    """A hash of seed and key: the same on every machine, whatever else is in the corpus."""


def unique(utterances: Iterable[Utterance]) -> list[Utterance]:
    """All of them, as they come. UserError for a key that is there twice, and where there are none."""
    seen: dict[str, Utterance] = {}
    for utterance in utterances:
        if utterance.key in seen:
            both = f"{_origin(seen[utterance.key])} and {_origin(utterance)}"
            raise UserError(
                f"key {utterance.key} is there twice: {both}; give each utterance its own, as by --column key=NAME"
            )
        seen[utterance.key] = utterance
    if not seen:
        raise UserError("there are no utterances; is the manifest or the corpus folder empty?")
    return list(seen.values())


def shard_tasks(
    utterances: Sequence[Utterance],
    sizes: Sequence[Size],
    out: Path,
    shuffle: str,
    seed: int,
    packing: Packing,
    limits: Limits,
) -> list[ShardTask]:
    """The shards of `out`, in the order that ORDERS has under `shuffle`; `sizes` may be empty where none are asked."""
    nothing = Size(0.0, 0)
    placed = [
        Placed(utterance, sizes[i] if sizes else nothing, chance(seed, utterance.key))
        for i, utterance in enumerate(utterances)
    ]
    parts = [tuple(one.utterance for one in part) for part in ORDERS[shuffle](placed, packing)]
    remote = remote_sizes(utterance.audio for utterance in utterances)
    return [
        ShardTask(out / shard_name(number), part, limits, _recipe(part, limits, remote))
        for number, part in enumerate(parts)
    ]


def chance(seed: int, key: str) -> bytes:
    """32 bytes that order and divide as if by chance."""
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


def in_random_order(placed: list[Placed], packing: Packing) -> list[list[Placed]]:
    """By chance, whatever the order they came in."""
    return _packed(sorted(placed, key=lambda one: one.chance), packing)


def in_given_order(placed: list[Placed], packing: Packing) -> list[list[Placed]]:
    """As the corpus has them."""
    return _packed(placed, packing)


def by_length(placed: list[Placed], packing: Packing) -> list[list[Placed]]:
    """Each shard holds utterances of like length, the shortest first; the shards are in random order."""
    ordered = sorted(placed, key=lambda one: (one.size.seconds, one.chance))
    return sorted(_packed(ordered, packing), key=lambda part: part[0].chance)


def evenly_mixed(placed: list[Placed], packing: Packing) -> list[list[Placed]]:
    """Each shard holds as good as the same share of every language, length and speaker; random within."""
    count = _shards_needed(placed, packing)
    ranks = sorted(range(len(placed)), key=lambda i: (placed[i].size.seconds, placed[i].chance))
    length_class = {i: rank * LENGTH_CLASSES // len(placed) for rank, i in enumerate(ranks)}
    dealt = sorted(
        range(len(placed)),
        key=lambda i: (
            placed[i].utterance.language,
            length_class[i],
            placed[i].utterance.speaker,
            placed[i].chance,
        ),
    )
    return [sorted((placed[i] for i in dealt[first::count]), key=lambda one: one.chance) for first in range(count)]


ORDERS: dict[str, Callable[[list[Placed], Packing], list[list[Placed]]]] = {
    "random": in_random_order,
    "stratified": evenly_mixed,
    "sorted": by_length,
    "none": in_given_order,
}
NEED_SECONDS = {"stratified", "sorted"}


def _packed(placed: Sequence[Placed], packing: Packing) -> list[list[Placed]]:
    """In this order, each shard as full as it may be."""
    shards: list[list[Placed]] = []
    room = 0
    for one in placed:
        full = one.size.bytes > room if packing.bytes else len(shards[-1]) == packing.utterances if shards else True
        if full or not shards:
            shards.append([])
            room = packing.bytes
        shards[-1].append(one)
        room -= one.size.bytes
    return shards


def _shards_needed(placed: Sequence[Placed], packing: Packing) -> int:
    have, most = (sum(one.size.bytes for one in placed), packing.bytes) if packing.bytes else (len(placed), packing[0])
    return min(len(placed), max(1, -(-have // most)))


def _recipe(utterances: Sequence[Utterance], limits: Limits, remote: Mapping[str, int]) -> str:
    digest = hashlib.sha256(canonical_json([FORMAT, VERSION, limits.shaping()]))
    for utterance in utterances:
        if utterance.part == "pipe":
            audio: str | int = utterance.audio  # the command itself, as what it gives is not known
        else:
            audio = remote[utterance.audio] if utterance.audio in remote else size_of(utterance.audio, utterance.part)
        row = to_row(utterance) | {"audio": audio}  # of a file the size: its place may change
        digest.update(_bytes(row))
    return digest.hexdigest()


def _bytes(row: Mapping[str, object]) -> bytes:
    try:
        return canonical_json(row)
    except ValueError:  # half a surrogate pair, NaN: it will be refused, by name
        return repr(sorted(row.items())).encode("ascii", "backslashreplace")


def _origin(utterance: Utterance) -> str:
    audio = f"{without_secrets(utterance.audio)} {utterance.part}".strip()
    return f"{utterance.meta.get('id', utterance.key)!r} ({audio})"
