"""Opens the shard directories that a recipe names, and checks that they go together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.addresses import is_remote
from data_prep.rework.joined import concatenate
from data_prep.shards.cache import cache_folder, configure
from data_prep.shards.index import ShardIndex
from data_prep.shards.opening import read_index
from model.errors import UserError
from train.recipe.config import Config


@dataclass(frozen=True)
class Indexes:
    """The shards of a recipe."""

    train: ShardIndex
    dev: ShardIndex | None

    @property
    def given(self) -> list[ShardIndex]:
        return [index for index in (self.train, self.dev) if index is not None]

    def digests(self) -> dict[str, str]:
        return {"training data": self.train.digest(), "dev data": self.dev.digest() if self.dev else ""}


def open_data(config: Config) -> Indexes:
    """The shards that the recipe names. UserError for those that are not there, or do not go together."""
    data = config.data
    configure(data.cache_dir, data.cache_gb)
    train, dev = _read_indexes(data.train, "data.train"), _read_indexes(data.dev, "data.dev")
    trained = {_utterances(index): index for index in train if len(index)}
    for index in dev:
        if same := trained.get(_utterances(index)):
            raise UserError(
                f"data.dev {_root(index)} holds the utterances of data.train {_root(same)}, so its figures would mean "
                "nothing; give others, such as of `slam-asr prep build --split train=0.95,dev=0.05`"
            )
    indexes = Indexes(_join(train), _join(dev) if dev else None)
    _require_cache_room(indexes.train, data.shuffle_shards)
    return indexes


def open_indexes(paths: Sequence[str]) -> ShardIndex:
    """All directories that data.train names, as one index; UserError if they are not there, or do not go together."""
    return _join(_read_indexes(paths, "data.train"))


def _read_indexes(paths: Sequence[str], key: str) -> list[ShardIndex]:
    """The index of each directory that `key` of a recipe names. UserError for a directory that is not there, and for
    one that is named twice, be it by another path or as a copy."""
    indexes: dict[tuple[str, int, int], ShardIndex] = {}
    for path in paths:
        if "," in path and (not Path(path).exists() or is_remote(path)):
            parts = ", ".join(part.strip() for part in path.split(","))
            raise UserError(f"{key}: no shard directory {path!r}; a list of them is written {key}=[{parts}]")
        if not is_remote(path) and not Path(path).is_dir():
            fault = "a file" if Path(path).exists() else "not there"
            raise UserError(
                f"no shard directory {path!r}: it is {fault}; build it with `slam-asr prep build`, or correct {key}"
            )
        index = read_index(path)
        before = indexes.setdefault(_utterances(index), index)
        if before is not index and len(index):
            raise UserError(f"{key} names the same utterances twice, {_root(before)} and {path}; leave one out")
    return list(indexes.values())


def _utterances(index: ShardIndex) -> tuple[str, int, int]:
    """Equal for equal recordings: of cached features it is that of the audio they were made of."""
    return index.options.get("audio") or index.digest(), len(index), int(index.samples.sum())


def _root(index: ShardIndex) -> str:
    return index.address or str(index.root)


def _join(indexes: Sequence[ShardIndex]) -> ShardIndex:
    """Directories of one kind as one index, in the order given; its shards are named by their whole path. UserError if
    there is nothing in them or they do not fit together."""
    if not any(map(len, indexes)):
        raise UserError(f"no utterances in {', '.join(map(_root, indexes))}; an empty split cannot be used")
    first, *others = indexes
    for other in others:
        if other.kind != first.kind or (first.kind == "features" and other.fingerprint != first.fingerprint):
            raise UserError(
                f"{first.root} and {other.root} cannot be one training set: kind or encoder differ; rebuild one of them"
            )
    return concatenate(indexes)


def _require_cache_room(index: ShardIndex, shuffle_shards: int | None) -> None:
    """UserError where the remote shards that are read at a time are more than the cache may hold."""
    sizes = sorted(info.bytes for i, info in enumerate(index.shards) if is_remote(index.location(i)))
    needed = sum(sizes if shuffle_shards is None else sizes[-2 * shuffle_shards :])  # the next ones are on their way
    if sizes and needed > (limit := cache_folder().limit):
        fits = max(1, int(limit // (2 * sizes[-1])))
        raise UserError(
            f"{needed / 1e9:,.1f} GB of shards are read at a time, the cache {cache_folder().path} may hold "
            f"{limit / 1e9:,.1f}; raise data.cache_gb, or set data.shuffle_shards to at most {fits}"
        )


def require_features(index: ShardIndex, encoder: dict[str, Any], dtype: str) -> None:
    """UserError unless cached features came from this `encoder` (fingerprint); `dtype` auto takes any precision."""
    settings = {"layer": "encoder_layer", "dtype": "encoder_dtype", "window": "encoder_window"}
    last = [*settings, "dim"]  # compared last: settings of the recipe, and the width, which follows from the layer
    for name, ours in sorted(encoder.items(), key=lambda item: last.index(item[0]) if item[0] in last else -1):
        made = index.fingerprint.get(name)
        if made == ours or (name == "dtype" and dtype == "auto"):
            continue
        correct, again = "correct model.encoder", "run `slam-asr prep features` again"
        if name in settings:
            correct, again = f"set model.{settings[name]}: {made}", f"{again} with --{name} {ours}"
        raise UserError(
            f"the cached features in {index.root} do not fit this recipe's encoder: their {name} is {made}, the "
            f"recipe's {ours}; {correct}, or {again}"
        )
