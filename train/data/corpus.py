"""The samples of a run: one or more shard directories, what is kept of them, and how long each is for the LLM."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.addresses import is_remote
from data_prep.rework.joined import concatenate
from data_prep.shards import cache
from data_prep.shards.cache_folder import cache_folder
from data_prep.shards.index import ShardIndex
from data_prep.shards.opening import read_index
from data_prep.shards.reader import read_batch
from model.batch import Batch
from model.errors import UserError, counted
from model.prompt import Prompt
from model.sample_rate import SAMPLE_RATE
from model.slam_asr import SlamAsr
from train.data.augmentation import Augmentation
from train.data.plan import Epochs, ShardWindow, cost_of
from train.recipe.config import Config, DataConfig
from train.recipe.kinds import Auto, decided

LONGEST_TRIED = 60
"""Seconds up to which the shortest recording that can be used is looked for."""
TEXT_BYTES_PER_TOKEN = 3
"""UTF-8 bytes a token, on the safe side: English has about 4 in Llama's vocabulary, Chinese 3 a character.
The plan only needs lengths that are close; what is computed and divided by is always counted on the real tokens."""

NO_LIMIT = 2**62


@dataclass(frozen=True)
class Corpus:
    """Samples by id 0..N-1 over all directories; `ids` are the kept ones."""

    index: ShardIndex
    ids: np.ndarray
    """int64, kept samples."""
    seconds: np.ndarray
    """float64 [N], audio as recorded."""
    tokens: np.ndarray
    """int64 [N], LLM tokens as recorded: prompt, speech and an estimate of the answer."""
    dropped: dict[str, int]
    """Samples left out, by reason."""
    measure: "Measure"
    longest_cost: int
    """Of the costliest sample that is kept, at its longest if a speed perturbation changes it (plan.cost_of)."""
    augment: Augmentation | None = None
    """What is done to the samples in training; None for a dev set."""
    cached: tuple[ShardIndex, np.ndarray] | None = None
    """Features of all samples and, int64 [N], the place of each there: read from the second epoch on."""

    def tokens_in(self, epoch: int) -> np.ndarray:
        """int64 [N], LLM tokens in an epoch: a speed perturbation changes them."""
        if self.augment is None or not self.augment.config.speed:
            return self.tokens
        return self.measure.tokens(self.index, self.augment.samples(self.index.samples, epoch))

    @property
    def cost(self) -> int:
        """Of an epoch (plan.cost_of)."""
        return int(cost_of(self.tokens[self.ids]).sum())

    def key(self, i: int) -> str:
        return self.index.key[i]

    def epochs(self, config: Config) -> Epochs:
        """What the run reads, in which order."""
        few = config.data.shuffle_shards
        window = ShardWindow(self.index.shard, few) if few is not None else None
        tokens, micro_batches = decided(config.batch.tokens), decided(config.batch.micro_batches)
        return Epochs(self.ids, self.tokens_in, config.data_seed, tokens, micro_batches, window)

    def prefetch(self, ids: np.ndarray, epoch: int) -> None:
        """Asks for the shards of samples that will soon be read, where they lie elsewhere; a hint."""
        index, places = self._places(ids, epoch)
        cache.prefetch(index, dict.fromkeys(index.shard[places].tolist()))

    def shard(self, i: int, epoch: int = 0) -> str:
        """The shard that the sample is read from in an epoch."""
        index, (place,) = self._places([i], epoch)
        return index.location(int(index.shard[place]))

    def shortest(self, count: int) -> list[int]:
        """The ids of the `count` shortest samples, or of all if there are fewer."""
        return self.ids[self.tokens[self.ids].argsort(kind="stable")[:count]].tolist()

    def read(self, ids: Sequence[int] | np.ndarray, prompt: Prompt, epoch: int = 0) -> Batch:
        """The samples as one packed batch, as they are to be in this epoch."""
        batch = read_batch(*self._places(ids, epoch), prompt)
        return batch if self.augment is None else self.augment.apply(batch, epoch, ids)

    def _places(self, ids: Sequence[int] | np.ndarray, epoch: int) -> tuple[ShardIndex, list[int]]:
        """The index that an epoch reads, and where in it the samples are."""
        if self.cached is None or epoch == 0:
            return self.index, [int(i) for i in ids]
        features, places = self.cached
        return features, [int(places[i]) for i in ids]

    def cached_in(self, features: ShardIndex) -> "Corpus":
        """The same samples, read from `features` after the first epoch. UserError if one is not there."""
        places = {key: place for place, key in enumerate(features.key)}
        missing = [key for key in self.index.key if key not in places]
        if missing:
            raise UserError(f"{features.root} lacks {counted(len(missing), 'utterance')}, {missing[0]} first")
        return replace(self, cached=(features, np.array([places[key] for key in self.index.key], np.int64)))


def open_indexes(paths: Sequence[str], key: str = "data.train") -> ShardIndex:
    """All directories that `key` of a recipe names, as one index; UserError as `read_indexes` and `join`."""
    return join(read_indexes(paths, key))


def read_indexes(paths: Sequence[str], key: str) -> list[ShardIndex]:
    """The index of each directory that `key` of a recipe names.

    UserError for a directory that is not there, and for one that is named twice, be it by another path or as a copy.
    """
    for path in paths:
        if "," in path and (not Path(path).exists() or is_remote(path)):
            parts = ", ".join(part.strip() for part in path.split(","))
            raise UserError(f"{key}: no shard directory {path!r}; a list of them is written {key}=[{parts}]")
        if not is_remote(path) and not Path(path).is_dir():
            what = "a file" if Path(path).exists() else "not there"
            raise UserError(
                f"no shard directory {path!r}: it is {what}; build it with `slam-asr prep build`, or correct {key}"
            )
    indexes: dict[tuple[str, int, int], ShardIndex] = {}
    for path in paths:
        index = read_index(path)
        before = indexes.setdefault(_utterances(index), index)
        if before is not index and len(index):
            raise UserError(f"{key} names the same utterances twice, {_root(before)} and {path}; leave one out")
    return list(indexes.values())


def require_apart(train: Sequence[ShardIndex], dev: Sequence[ShardIndex]) -> None:
    """UserError if a directory of the dev set is one of the training set, by another path, as a copy, or encoded."""
    trained = {_utterances(index): index for index in train if len(index)}
    for index in dev:
        if same := trained.get(_utterances(index)):
            raise UserError(
                f"data.dev {_root(index)} holds the utterances of data.train {_root(same)}, so its figures would say "
                "nothing; give others, such as of `slam-asr prep build --split train=0.95,dev=0.05`"
            )


def _utterances(index: ShardIndex) -> tuple[str, int, int]:
    """Equal for equal recordings: of cached features it is that of the audio they were made of."""
    return index.options.get("audio") or index.digest(), len(index), int(index.samples.sum())


def _root(index: ShardIndex) -> str:
    return index.address or str(index.root)


def join(indexes: Sequence[ShardIndex]) -> ShardIndex:
    """Directories of one kind as one index, in the order given; its shards are named by their whole path.

    UserError if there is nothing in them or they do not fit together.
    """
    if not any(map(len, indexes)):
        raise UserError(f"no utterances in {', '.join(map(_root, indexes))}; an empty split cannot be used")
    first = indexes[0]
    for other in indexes[1:]:
        if other.kind != first.kind or (first.kind == "features" and other.fingerprint != first.fingerprint):
            raise UserError(
                f"{first.root} and {other.root} cannot be one training set: kind or encoder differ; rebuild one of them"
            )
    return concatenate(indexes)


def require_room(index: ShardIndex, shuffle_shards: int | None) -> None:
    """UserError where shards that lie elsewhere are more than the cache can hold of those that are read at a time."""
    sizes = sorted(info.bytes for i, info in enumerate(index.shards) if is_remote(index.location(i)))
    needed = sum(sizes if shuffle_shards is None else sizes[-2 * shuffle_shards :])  # the next ones are on their way
    if sizes and needed > (limit := cache_folder().limit):
        fits = max(1, int(limit // (2 * sizes[-1])))
        raise UserError(
            f"{needed / 1e9:,.1f} GB of shards are read at a time, the cache {cache_folder().path} may hold "
            f"{limit / 1e9:,.1f}; raise data.cache_gb, or set data.shuffle_shards to at most {fits}"
        )


@dataclass(frozen=True)
class Measure:
    """How long samples are for the LLM."""

    around: int
    """Tokens of the prompt, and the end of the answer."""
    frames: Callable[[Any], Any]
    """Encoder frames of so many samples; not asked where features are cached."""
    speech: Callable[[Any], Any]
    """Speech embeddings of so many frames."""
    stack: int
    """Encoder frames in a speech embedding."""

    def embeddings(self, index: ShardIndex, samples: np.ndarray) -> np.ndarray:
        """int64 [N], speech embeddings of recordings of `samples` each."""
        return self.speech(np.asarray(self.frames(samples) if index.kind == "audio" else index.frames, np.int64))

    def tokens(self, index: ShardIndex, samples: np.ndarray) -> np.ndarray:
        """int64 [N], LLM tokens."""
        return self.around + self.embeddings(index, samples) + -(-index.text_bytes // TEXT_BYTES_PER_TOKEN)


def make_corpus(
    index: ShardIndex,
    data: DataConfig,
    limit: int | None,
    budget: int | Auto,
    model: SlamAsr,
    augment: Augmentation | None = None,
) -> Corpus:
    """The corpus that a recipe describes.

    What is too long or too short is refused or dropped with a count, never cut. `budget` bounds the cost of an
    utterance in LLM tokens; "auto" will be made large enough for the longest.
    """
    measure = _measure(index, model)
    seconds, positions = index.samples / SAMPLE_RATE, model.max_positions or NO_LIMIT
    shortest, longest = (index.samples, index.samples) if augment is None else augment.extremes(index.samples)
    speech, most = measure.embeddings(index, shortest), measure.tokens(index, longest)
    faults = {
        f"longer than data.max_seconds {data.max_seconds:g}": seconds > data.max_seconds,
        f"shorter than data.min_seconds {data.min_seconds:g}": seconds < data.min_seconds,
        f"of more than data.max_characters {data.max_characters}": index.characters > data.max_characters,
        (too_short := f"shorter than one speech embedding ({model.adapter.spec.stack} encoder frames)"): speech < 1,
        f"longer than the {budget} tokens of a micro-batch (batch.tokens, eval.tokens)": cost_of(most)
        > (NO_LIMIT if budget == "auto" else budget),
        f"longer than the LLM's {positions} positions": most > positions,
    }
    kept = np.arange(len(index))
    dropped: dict[str, int] = {}
    for reason, bad in faults.items():
        bad = bad[kept]
        if bad.any() and data.over_length == "refuse":
            if reason == too_short:
                raise UserError(_too_short(index, kept[bad], measure, augment))
            raise UserError(_refusal(index, kept[bad], reason))
        if bad.any():
            dropped[reason] = int(bad.sum())
        kept = kept[~bad]
    if len(kept) == 0:
        raise UserError(f"nothing is left of {counted(len(index), 'utterance')}: {dropped}; widen the limits in data")
    ids, tokens = kept[:limit], measure.tokens(index, index.samples)
    return Corpus(index, ids, seconds, tokens, dropped, measure, int(cost_of(most[ids]).max()), augment)


def _measure(index: ShardIndex, model: SlamAsr) -> Measure:
    assert model.encoder is not None or index.kind == "features"
    around = len(model.prompt.prefix_ids) + len(model.prompt.suffix_ids) + 1
    frames, adapter = model.encoder.out_len if model.encoder else len, model.adapter
    return Measure(around, frames, adapter.out_len, adapter.spec.stack)


def _refusal(index: ShardIndex, bad: np.ndarray, reason: str) -> str:
    names = ", ".join(index.key[i] for i in bad[:3]) + (" ..." if len(bad) > 3 else "")
    said, them = ("utterance is", "it") if len(bad) == 1 else ("utterances are", "them")
    return f"{len(bad):,} {said} {reason}: {names}; raise the limit, or set data.over_length: drop to leave {them} out"


def _too_short(index: ShardIndex, bad: np.ndarray, measure: Measure, augment: Augmentation | None) -> str:
    """What is said of utterances of fewer encoder frames than are stacked into one speech embedding."""
    named = [f"{index.key[i]} ({index.samples[i] / SAMPLE_RATE:.3f} s)" for i in bad[:3]]
    shortest = index.samples[bad] if augment is None else augment.extremes(index.samples[bad])[0]
    frames = np.asarray(measure.frames(shortest)) if index.kind == "audio" else index.frames[bad]
    stack, least = measure.stack, _least_seconds(index, measure, augment)
    smaller = f", or model.adapter.stack: {frames.min()} or less" if frames.min() >= 1 else ""
    said = "utterance is" if len(bad) == 1 else "utterances are"
    return (
        f"{len(bad):,} {said} too short for one speech embedding: {', '.join(named)}{' ...' if len(bad) > 3 else ''}; "
        f"with this encoder and model.adapter.stack {stack} it takes {least:.3f} s; set data.over_length: drop to "
        f"leave out what is shorter (data.min_seconds: {least:.3f} is the same limit){smaller}"
    )


def _least_seconds(index: ShardIndex, measure: Measure, augment: Augmentation | None) -> float:
    """Of a recording that gives one speech embedding, to the millisecond.

    Of cached features it is the shortest here that does, or an estimate where none does.
    """
    if index.kind == "features":
        enough = index.samples[index.frames >= measure.stack]
        samples = enough.min() if len(enough) else measure.stack * index.samples.sum() / max(1, index.frames.sum())
        return math.floor(1000 * float(samples) / SAMPLE_RATE) / 1000
    tried = np.arange(1, 1000 * LONGEST_TRIED + 1) * (SAMPLE_RATE // 1000)
    shortest = tried if augment is None else augment.extremes(tried)[0]
    enough = np.asarray(measure.speech(np.asarray(measure.frames(shortest)))) >= 1
    return float(tried[enough.argmax()]) / SAMPLE_RATE if enough.any() else LONGEST_TRIED
