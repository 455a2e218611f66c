"""The samples of a run: one or more shard directories, what is kept of them, and how long each is for the LLM."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_prep.shards import cache
from data_prep.shards.index import ShardIndex
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

TEXT_BYTES_PER_TOKEN = 3
"""UTF-8 bytes a token, on the safe side: English has about 4 in Llama's vocabulary, Chinese 3 a character.
The plan only needs lengths that are close; what is computed and divided by is always counted on the real tokens."""
NO_LIMIT = 2**62


@dataclass(frozen=True)
class Corpus:
    """Samples by id 0..N-1 over all directories; `ids` are the kept ones."""

    model: SlamAsr  # it measures the samples
    index: ShardIndex
    ids: np.ndarray  # int64, kept samples
    seconds: np.ndarray  # float64 [N], audio as recorded
    tokens: np.ndarray  # int64 [N], LLM tokens as recorded: prompt, speech and an estimate of the answer
    dropped: dict[str, int]  # samples left out, by reason
    longest_cost: int
    """Of the costliest sample that is kept, at its longest if a speed perturbation changes it (plan.cost_of)."""
    augment: Augmentation | None = None  # None for a dev set
    cached: tuple[ShardIndex, np.ndarray] | None = None
    """Features of all samples and, int64 [N], the number of each there: read from the second epoch on."""

    def tokens_in(self, epoch: int) -> np.ndarray:
        """int64 [N], LLM tokens in an epoch: a speed perturbation changes them."""
        if self.augment is None or not self.augment.config.speed:
            return self.tokens
        return _tokens(self.model, self.index, self.augment.samples(self.index.samples, epoch))

    @property
    def chosen(self) -> str:
        """What tells two dev sets apart: a digest of the data, and how many utterances of them are taken."""
        return f"{len(self.ids)} of {self.index.digest()}"

    @property
    def whole(self) -> bool:
        """Whether no limit left samples out; those that are too long or too short do not count."""
        return len(self.ids) + sum(self.dropped.values()) == len(self.index)

    @property
    def cost(self) -> int:
        """Of an epoch (plan.cost_of)."""
        return int(cost_of(self.tokens[self.ids]).sum())

    @property
    def prompt_tokens(self) -> int:
        """LLM tokens of the prompt around the speech."""
        return len(self.model.prompt.prefix_ids) + len(self.model.prompt.suffix_ids)

    @property
    def usual_seconds(self) -> float:
        """That 95 % of the utterances do not exceed, to a tenth."""
        return round(float(np.quantile(self.seconds[self.ids], 0.95)), 1)

    @property
    def mean_tokens(self) -> float:
        """LLM tokens of an average utterance, the prompt included."""
        return float(self.tokens[self.ids].mean())

    def epochs(self, config: Config) -> Epochs:
        """The order in which the run reads the samples."""
        at_once = config.data.shuffle_shards
        window = None if at_once is None else ShardWindow(self.index.shard, at_once)
        tokens, micro_batches = decided(config.batch.tokens), decided(config.batch.micro_batches)
        return Epochs(self.ids, self.tokens_in, config.data_seed, tokens, micro_batches, window)

    def prefetch(self, ids: np.ndarray, epoch: int) -> None:
        """Asks for the remote shards of samples that will soon be read; a hint."""
        index, numbers = self._source(ids, epoch)
        cache.prefetch(index, dict.fromkeys(index.shard[numbers].tolist()))

    def shard(self, i: int, epoch: int) -> str:
        """The shard that the sample is read from in an epoch."""
        index, (number,) = self._source([i], epoch)
        return index.location(int(index.shard[number]))

    def read(self, ids: Sequence[int] | np.ndarray, prompt: Prompt, epoch: int = 0) -> Batch:
        """The samples as one packed batch, augmented as they are in this epoch."""
        batch = read_batch(*self._source(ids, epoch), prompt)
        return batch if self.augment is None else self.augment.apply(batch, epoch, ids)

    def _source(self, ids: Sequence[int] | np.ndarray, epoch: int) -> tuple[ShardIndex, list[int]]:
        """The index that an epoch reads, and the samples' numbers in it."""
        if self.cached is None or epoch == 0:
            return self.index, [int(i) for i in ids]
        features, numbers = self.cached
        return features, [int(numbers[i]) for i in ids]

    def cached_in(self, features: ShardIndex) -> "Corpus":
        """The same samples, read from `features` after the first epoch. UserError if one is not there."""
        numbers = {key: number for number, key in enumerate(features.key)}
        missing = [key for key in self.index.key if key not in numbers]
        if missing:
            raise UserError(f"{features.root} lacks {counted(len(missing), 'utterance')}, {missing[0]} first")
        return replace(self, cached=(features, np.array([numbers[key] for key in self.index.key], np.int64)))


def make_corpus(
    index: ShardIndex,
    data: DataConfig,
    limit: int | None,
    budget: int | Auto,
    model: SlamAsr,
    augment: Augmentation | None = None,
    evenly: bool = False,
) -> Corpus:
    """The corpus that a recipe describes, with at most `limit` samples: the first, or, if `evenly`, some spread over
    all of them, which may be in the order of speakers or of several directories.

    Samples that are too long or too short are refused or dropped with a count, never cut. `budget` bounds the cost of
    an utterance in LLM tokens; "auto" will be made large enough for the longest."""
    seconds, positions = index.samples / SAMPLE_RATE, model.max_positions or NO_LIMIT
    shortest, longest = (index.samples, index.samples) if augment is None else augment.extremes(index.samples)
    frames, most = _frames(model, index, shortest), _tokens(model, index, longest)
    too_short = f"shorter than one speech embedding ({model.adapter.spec.stack} encoder frames)"
    faults = {
        f"longer than data.max_seconds {data.max_seconds:g}": seconds > data.max_seconds,
        f"shorter than data.min_seconds {data.min_seconds:g}": seconds < data.min_seconds,
        f"of more than data.max_characters {data.max_characters}": index.characters > data.max_characters,
        too_short: model.adapter.out_len(frames) < 1,
        f"longer than the {budget} tokens of a micro-batch (batch.tokens, eval.tokens)": cost_of(most)
        > (NO_LIMIT if budget == "auto" else budget),
        f"longer than the LLM's {positions} positions": most > positions,
    }
    kept, dropped = np.arange(len(index)), {}
    for reason, bad in faults.items():
        bad, kept = kept[bad[kept]], kept[~bad[kept]]
        if len(bad) and data.over_length == "refuse":
            are = counted(len(bad), "utterance is", "utterances are")
            names = ", ".join(f"{index.key[i]} ({seconds[i]:.3f} s)" for i in bad[:3]) + " ..." * (len(bad) > 3)
            stack = int(frames[bad].min())
            todo = "raise the limit, " if reason != too_short else f"set model.adapter.stack to {stack}, " * (stack > 0)
            raise UserError(
                f"{are} {reason}: {names}; {todo}or set data.over_length: drop to leave out such utterances"
            )
        if len(bad):
            dropped[reason] = len(bad)
    if len(kept) == 0:
        raise UserError(f"nothing is left of {counted(len(index), 'utterance')}: {dropped}; widen the limits in data")
    ids, tokens = spread(kept, limit) if evenly else kept[:limit], _tokens(model, index, index.samples)
    return Corpus(model, index, ids, seconds, tokens, dropped, int(cost_of(most[ids]).max()), augment)


def spread(ids: np.ndarray, limit: int | None) -> np.ndarray:
    """At most `limit` of the ids [N], at even distances and in their order, so that each part has its share."""
    return ids if limit is None or limit >= len(ids) else ids[np.arange(limit) * len(ids) // limit]


def _frames(model: SlamAsr, index: ShardIndex, samples: np.ndarray) -> np.ndarray:
    """int64 [N], encoder frames of the recordings of `index`, if they have so many `samples`."""
    frames = model.encoder.out_len(samples) if model.encoder and index.kind == "audio" else index.frames
    return np.asarray(frames, np.int64)


def _tokens(model: SlamAsr, index: ShardIndex, samples: np.ndarray) -> np.ndarray:
    """int64 [N], their LLM tokens: the prompt, the speech, an estimate of the answer, and its end."""
    around = len(model.prompt.prefix_ids) + len(model.prompt.suffix_ids) + 1
    text = -(-index.text_bytes // TEXT_BYTES_PER_TOKEN)
    return around + model.adapter.out_len(_frames(model, index, samples)) + text
