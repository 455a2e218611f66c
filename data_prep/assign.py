"""Which utterance goes where: decided before any work starts, by keys and seed alone."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data_prep.durable import canonical_json
from data_prep.index import FORMAT, VERSION, shard_name
from data_prep.prepare import Limits
from data_prep.sources import size_of
from data_prep.utterance import Utterance, to_row
from model.errors import UserError


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to write one shard."""

    path: Path
    utterances: tuple[Utterance, ...]
    limits: Limits
    recipe: str
    """sha256 hex of everything that decides the shard's bytes."""


def in_shard_order(utterances: Iterable[Utterance], seed: int) -> list[Utterance]:
    """In the order in which they fill the shards: by a hash of seed and key, so shuffled, and the same everywhere.

    UserError for a key that is there twice, and where there are no utterances.
    """
    seen: dict[str, Utterance] = {}
    for utterance in utterances:
        if utterance.key in seen:
            both = f"{_origin(seen[utterance.key])} and {_origin(utterance)}"
            raise UserError(f"key {utterance.key} is there twice: {both}; give each utterance its own")
        seen[utterance.key] = utterance
    if not seen:
        raise UserError("there are no utterances to build from; is the manifest or the corpus folder empty?")
    return sorted(seen.values(), key=lambda utterance: hashlib.sha256(f"{seed}:{utterance.key}".encode()).digest())


def shard_tasks(utterances: Sequence[Utterance], out: Path, shard_size: int, limits: Limits) -> list[ShardTask]:
    """One task for each `shard_size` utterances, in order."""
    parts = [tuple(utterances[first : first + shard_size]) for first in range(0, len(utterances), shard_size)]
    return [
        ShardTask(out / shard_name(number), part, limits, _recipe(part, limits)) for number, part in enumerate(parts)
    ]


def warn_about_capitals(utterances: Sequence[Utterance], limits: Limits) -> None:
    """Language models read CAPITALS as rare spelling: said once, not changed by itself."""
    capitals = sum(utterance.text.isupper() for utterance in utterances)
    if capitals > len(utterances) / 2 and not limits.lowercase:
        print(
            f"warning: {capitals:,} of {len(utterances):,} transcripts are in CAPITALS, which language models spell "
            "badly; --lowercase writes them in lower case",
            file=sys.stderr,
        )


def _recipe(utterances: Sequence[Utterance], limits: Limits) -> str:
    digest = hashlib.sha256(canonical_json([FORMAT, VERSION, asdict(limits)]))
    for utterance in utterances:
        size = size_of(utterance.audio, utterance.part)
        row = to_row(utterance) | {"audio": size}  # its place may change, not its size
        digest.update(canonical_json(row))
    return digest.hexdigest()


def _origin(utterance: Utterance) -> str:
    return f"{utterance.meta.get('id', utterance.key)!r} ({utterance.audio})"
