"""The utterances of a recipe: by the index of its shards, or, where there are none yet, by assumption."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep.addresses import is_remote
from model.errors import UserError, counted
from model.prompt import CHAT, CHAT_USER, SPEECH, Prompt
from model.sample_rate import SAMPLE_RATE
from model.skeleton import read_tokenizer
from train.data.corpus import TEXT_BYTES_PER_TOKEN
from train.data.indexes import open_indexes
from train.data.plan import cost_of, plan_epoch
from train.recipe.config import Config
from train.recipe.kinds import decided
from train.recipe.models import ModelConfig

MEAN_SECONDS, TEXT_BYTES_A_SECOND = 12.3, 14.4
"""Of LibriSpeech's 960 h of training."""
DEFAULT_HOURS = 960.0


class Utterance(NamedTuple):
    """Sizes of an utterance; `tokens` are fed into the LLM, `targets` predicted."""

    samples: int
    frames: int
    targets: int
    tokens: int


@dataclass(frozen=True)
class Work:
    """Sums over an epoch; `tokens` are fed into the LLM, `cost` is counted as in train/data/plan.py."""

    source: str  # where the lengths are from, in words
    cached: bool  # whether the recipe reads cached frames
    utterances: float
    seconds: float
    tokens: float
    targets: float
    frames: float
    cost: float
    longest_samples: int
    longest_cost: int  # of the costliest utterance: the least that batch.tokens may be
    prompt_tokens: int
    tokens_each: np.ndarray | None  # int64 [N], LLM tokens of each utterance; None where they are assumed

    def steps(self, config: Config) -> int:
        """Steps of an epoch: the first epoch's own plan where each utterance is known, else by the sum."""
        tokens, micro_batches = decided(config.batch.tokens), decided(config.batch.micro_batches)
        if self.tokens_each is not None and self.longest_cost <= tokens:
            ids = np.arange(len(self.tokens_each))
            return plan_epoch(ids, self.tokens_each, config.data_seed, 0, tokens, micro_batches).num_steps
        return max(1, math.ceil(self.cost / (tokens * micro_batches)))

    def mean(self, shapes: Any) -> Utterance:
        samples, targets = int(SAMPLE_RATE * self.seconds / self.utterances), round(self.targets / self.utterances)
        return utterance_of(shapes, samples, targets, self.prompt_tokens)


def utterance_of(shapes: Any, samples: int, targets: int, prompt_tokens: int) -> Utterance:
    """Of so many samples and answer tokens, at least one."""
    frames, targets = int(shapes.frames_of(samples)), max(1, targets)
    tokens = prompt_tokens + int(shapes.speech_of(frames)) + targets - 1  # the end is predicted, never fed in
    return Utterance(samples, frames, targets, tokens)


def read_work(config: Config, shapes: Any, hours: float | None) -> Work:
    """Of data.train where all of it is there; else of so many `hours` (960) of LibriSpeech's mean utterance.

    Tokens are estimated as train/data/corpus.py does. UserError for `hours` where data.train is there, and where the
    limits of `data` leave nothing of it."""
    data, prompt_tokens, cached = config.data, tokens_of_prompt(config.model), False
    missing = [path for path in data.train if not is_remote(path) and not Path(path).is_dir()]
    if missing:
        hours = DEFAULT_HOURS if hours is None else hours
        source = (
            f"{missing[0]} is not there: {hours:,.0f} h of utterances of {MEAN_SECONDS} s are assumed, as "
            "LibriSpeech's (--hours says how many)"
        )
        seconds, times = np.array([MEAN_SECONDS, data.max_seconds]), np.array([3600 * hours / MEAN_SECONDS, 0.0])
        samples = (seconds * SAMPLE_RATE).astype(np.int64)
        text_bytes = np.ceil(TEXT_BYTES_A_SECOND * seconds).astype(np.int64)
        frames = np.asarray(shapes.frames_of(samples))
    else:
        if hours is not None:
            raise UserError("--hours is for data that are not there, and data.train is; leave --hours out")
        index = open_indexes(data.train)
        cached, seconds = index.kind == "features", index.samples / SAMPLE_RATE
        within = (seconds >= data.min_seconds) & (seconds <= data.max_seconds)
        within &= index.characters <= data.max_characters
        ids = np.flatnonzero(within)[: data.max_train_samples]
        if len(ids) == 0:
            all_of_it = counted(len(index), "utterance")
            raise UserError(f"nothing is left of {all_of_it} within the limits of data; widen them")
        outside = f", {len(index) - int(within.sum()):,} outside the limits of data" if not within.all() else ""
        source = f"{', '.join(data.train)}: {counted(len(ids), 'utterance')} of {index.kind}{outside}"
        samples, text_bytes = (array[ids].astype(np.int64) for array in (index.samples, index.text_bytes))
        times = np.ones(len(ids))
        frames = index.frames[ids].astype(np.int64) if cached else np.asarray(shapes.frames_of(samples))
    targets = -(-text_bytes // TEXT_BYTES_PER_TOKEN) + 1
    tokens = prompt_tokens + np.asarray(shapes.speech_of(frames)) + targets  # the end of the answer included
    return Work(
        source=source,
        cached=cached,
        utterances=float(times.sum()),
        seconds=float(times @ samples) / SAMPLE_RATE,
        tokens=float(times @ (tokens - 1)),
        targets=float(times @ targets),
        frames=float(times @ frames),
        cost=float(times @ cost_of(tokens)),
        longest_samples=int(samples.max()),
        longest_cost=int(cost_of(tokens).max()),
        prompt_tokens=prompt_tokens,
        tokens_each=None if missing else tokens.astype(np.int64),
    )


def tokens_of_prompt(model: ModelConfig) -> int:
    """Tokens of the prompt around the speech, with BOS; estimated from its bytes if there is no local tokenizer."""
    try:
        prompt = Prompt(read_tokenizer(model.llm, model.trust_remote_code), *model.prompt_texts)
    except (UserError, IndexError):  # IndexError: from a config.json alone transformers opens one without any word
        text = (model.chat_user or CHAT_USER) if model.prompt == CHAT else model.prompt
        return 1 + sum(-(-len(part.encode()) // TEXT_BYTES_PER_TOKEN) for part in text.split(SPEECH))
    return len(prompt.prefix_ids) + len(prompt.suffix_ids)
