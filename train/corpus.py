"""The samples of a run: one or more shard directories, what is kept of them, and how long each is for the LLM."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.index import ShardIndex, read_index
from data_prep.joined import concatenate
from data_prep.reader import read_batch
from data_prep.remote import cache
from data_prep.remote.cache_folder import cache_folder
from data_prep.sources import is_remote
from decode.generate import max_positions
from model.batch import Batch
from model.errors import UserError
from model.prompt import Prompt
from model.sample_rate import SAMPLE_RATE
from model.slam_asr import SlamAsr
from train.augmentation import Augmentation
from train.config import Config, DataConfig
from train.kinds import Auto, decided
from train.plan import Epochs, ShardWindow, cost_of

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
            raise UserError(f"{features.root} lacks {len(missing):,} utterances, {missing[0]} first")
        return replace(self, cached=(features, np.array([places[key] for key in self.index.key], np.int64)))


def open_indexes(paths: Sequence[str]) -> ShardIndex:
    """All directories as one index; UserError if there is nothing in them or they do not fit together."""
    for path in paths:
        if not is_remote(path) and not Path(path).is_dir():
            raise UserError(
                f"no shard directory {path!r}; build it with `slam-asr prep build`, or correct data.train / data.dev"
            )
    index = join([read_index(path) for path in paths])
    if len(index) == 0:
        raise UserError(f"no utterances in {', '.join(paths)}; an empty split cannot be used")
    return index


def join(indexes: Sequence[ShardIndex]) -> ShardIndex:
    """Directories of one kind as one index, in the order given; its shards are named by their whole path."""
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
    seconds, positions = index.samples / SAMPLE_RATE, max_positions(model) or NO_LIMIT
    shortest, longest = (index.samples, index.samples) if augment is None else augment.extremes(index.samples)
    speech, most = measure.embeddings(index, shortest), measure.tokens(index, longest)
    faults = {
        f"longer than data.max_seconds {data.max_seconds:g}": seconds > data.max_seconds,
        f"shorter than data.min_seconds {data.min_seconds:g}": seconds < data.min_seconds,
        f"of more than data.max_characters {data.max_characters}": index.characters > data.max_characters,
        f"shorter than one speech embedding ({model.adapter.spec.stack} encoder frames)": speech < 1,
        f"longer than the {budget} tokens of a micro-batch (batch.tokens, eval.tokens)": cost_of(most)
        > (NO_LIMIT if budget == "auto" else budget),
        f"longer than the LLM's {positions} positions": most > positions,
    }
    kept = np.arange(len(index))
    dropped: dict[str, int] = {}
    for reason, bad in faults.items():
        bad = bad[kept]
        if bad.any() and data.over_length == "refuse":
            raise UserError(_refusal(index, kept[bad], reason))
        if bad.any():
            dropped[reason] = int(bad.sum())
        kept = kept[~bad]
    if len(kept) == 0:
        raise UserError(f"nothing is left of {len(index)} utterances: {dropped}; widen the limits in data")
    ids, tokens = kept[:limit], measure.tokens(index, index.samples)
    return Corpus(index, ids, seconds, tokens, dropped, measure, int(cost_of(most[ids]).max()), augment)


def _measure(index: ShardIndex, model: SlamAsr) -> Measure:
    assert model.encoder is not None or index.kind == "features"
    around = len(model.prompt.prefix_ids) + len(model.prompt.suffix_ids) + 1
    return Measure(around, model.encoder.out_len if model.encoder else len, model.adapter.out_len)


def _refusal(index: ShardIndex, bad: np.ndarray, reason: str) -> str:
    names = ", ".join(index.key[i] for i in bad[:3]) + (" ..." if len(bad) > 3 else "")
    return (
        f"{len(bad)} utterances are {reason}: {names}; raise the limit, or set data.over_length: drop to leave them out"
    )


def require_features(index: ShardIndex, encoder: dict[str, Any], dtype: str) -> None:
    """UserError unless cached features came from this very encoder: weights, layer, preprocessing.

    Its precision too, if the recipe asks for one (`dtype` is not "auto").
    """
    asked = {name: value for name, value in encoder.items() if name != "dtype" or dtype != "auto"}
    for name, value in asked.items():
        made = index.fingerprint.get(name)
        if made != value:
            raise UserError(
                f"the cached features in {index.root} are of another encoder: their {name} is {made}, that of this "
                f"recipe's encoder is {value}; run `slam-asr prep features` again, or correct model.encoder"
            )
