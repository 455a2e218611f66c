"""Which utterance goes into which shard, decided before any work starts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.addresses import without_secrets
from data_prep.build.options import BuildOptions
from data_prep.build.order import Sizes, divide
from data_prep.build.prepare import Limits
from data_prep.durable import canonical_json
from data_prep.recordings.open import remote_sizes, size_of
from data_prep.shards.index import FORMAT, VERSION, shard_name
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
