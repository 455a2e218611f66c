"""Several dataset directories as one index in memory, to be written anew, merged or trained on."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.shards.coverage import AUDIO_CRC
from data_prep.shards.index import COLUMNS, ShardIndex, columns_path
from data_prep.shards.opening import read_document, read_index, shard_path
from data_prep.shards.tar import walk
from data_prep.text import printable
from model.errors import UserError

OF_ONE = {"shard_size", "shard_bytes", "shuffle", "seed", "part", "input", "merged", "prefixes"}
"""Options of the layout of one directory; they do not describe several."""


def open_all(roots: Sequence[Path | str], out: Path) -> list[ShardIndex]:
    """The index of each directory. UserError unless they are of one kind and media, hold their tars, and none is `out`.
    Warns on stderr where transcripts were normalised in different ways."""
    indexes = [read_index(root) for root in roots]
    for index in indexes:
        if not index.address and index.root.resolve() == out.resolve():
            raise UserError(f"{out} is one of the directories to read; give another one to write to")
        if any(shard.source for shard in index.shards):
            raise UserError(f"{place_of(index)} lists tars of others where they lie; build it instead, from those tars")
        first, here, there = indexes[0], place_of(indexes[0]), place_of(index)
        if index.kind != first.kind:
            raise UserError(f"{here} holds {first.kind}, {there} {index.kind}; they cannot be one set")
        if index.media != first.media:
            raise UserError(f"{here} holds {first.media}, {there} {index.media}; build one of them again as the other")
        if first.kind == "features" and index.fingerprint != first.fingerprint:
            names = sorted({*first.fingerprint, *index.fingerprint})
            name = next(name for name in names if first.fingerprint.get(name) != index.fingerprint.get(name))
            raise UserError(
                f"{here} and {there} hold features of different encoders: {name} is {first.fingerprint.get(name)} and "
                f"{index.fingerprint.get(name)}; make one of them again"
            )
    spellings = {printable(str(index.options.get("normalise", "none")))[:40]: place_of(index) for index in indexes}
    if len(spellings) > 1:
        mixture = " and ".join(f"normalise is {name} in {place}" for name, place in list(spellings.items())[:2])
        print(f"warning: transcripts will be mixed: {mixture}; better build them alike", file=sys.stderr)
    return indexes


def concatenate(indexes: Sequence[ShardIndex]) -> ShardIndex:
    """All utterances in the order given, as one index in memory; its shards are named by their whole path."""
    first = indexes[0]
    before = np.cumsum([0, *(len(index.shards) for index in indexes[:-1])])
    common = {
        name: value
        for name, value in first.options.items()
        if name not in OF_ONE and all(name in index.options and index.options[name] == value for index in indexes)
    }
    if any(index.media != first.media for index in indexes):
        common["media"] = "any"
    return replace(
        first,
        shards=tuple(index.placed(number) for index in indexes for number in range(len(index.shards))),
        options=common,
        key=[key for index in indexes for key in index.key],
        shard=np.concatenate([index.shard + n for index, n in zip(indexes, before, strict=True)]).astype(np.int32),
        address="",
        **{name: np.concatenate([getattr(index, name) for index in indexes]) for name in COLUMNS},
    )


def part_of(index: ShardIndex, ids: np.ndarray) -> ShardIndex:
    """The utterances `ids`, in that order, and no more shards than they lie in."""
    used, shard = np.unique(index.shard[ids], return_inverse=True)
    return replace(
        index,
        shards=tuple(index.shards[number] for number in used),
        key=[index.key[i] for i in ids],
        shard=shard.astype(np.int32),
        **{name: getattr(index, name)[ids] for name in COLUMNS},
    )


def require_own_keys(indexes: Sequence[ShardIndex], hint: str) -> None:
    """UserError for a key that two of the directories have."""
    owner: dict[str, ShardIndex] = {}
    for index in indexes:
        twice = [key for key in index.key if key in owner]
        if twice:
            more = f" (and {len(twice) - 1:,} more)" if len(twice) > 1 else ""
            both = f"{place_of(owner[twice[0]])} and {place_of(index)}"
            raise UserError(f"key {twice[0]}{more} is in both {both}; {hint}")
        owner |= dict.fromkeys(index.key, index)


def extension_of(indexes: Sequence[ShardIndex]) -> str:
    """Of the media members, by the first of each directory. UserError if they are not the same."""
    extensions: dict[str, str] = {}
    for index in filter(len, indexes):
        tar = shard_path(index, int(index.shard[0]))
        try:
            name = next(walk(tar))[0]
        except (ValueError, OSError, StopIteration) as error:
            fault, check = str(error) or "it is empty", f'run "slam-asr prep check {place_of(index)}"'
            raise UserError(f"{tar.name} cannot be read: {fault}; {check}") from None
        extensions.setdefault(name.rpartition(".")[2], place_of(index))
    if len(extensions) > 1:
        (first, here), (second, there), *_ = extensions.items()
        raise UserError(f"{here} holds .{first} files, {there} .{second}; they cannot be one set")
    return next(iter(extensions), "")


def audio_crcs(indexes: Sequence[ShardIndex]) -> list[int | None]:
    """Of each utterance of features, the CRC of the audio it was made from, where its shard keeps it."""
    crcs: list[int | None] = []
    for index in indexes:
        for shard in index.shards:
            noted: Any = read_document(columns_path(index.root / shard.name)).get(AUDIO_CRC)
            usable = isinstance(noted, list) and len(noted) == shard.utterances
            crcs += noted if usable else [None] * shard.utterances
    return crcs


def place_of(index: ShardIndex) -> str:
    """Its directory or address, for a message."""
    return index.address or str(index.root)
