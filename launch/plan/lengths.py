"""How long the utterances of a recipe are: by the index of its shards, or, where there are none yet, by assumption."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.addresses import is_remote
from data_prep.figures import counted
from launch.plan.flops import adapter_flops, encoder_flops, llm_flops
from launch.plan.memory import Micro
from launch.plan.shapes import Shapes
from model.errors import UserError
from model.prompt import SPEECH, Prompt
from model.sample_rate import SAMPLE_RATE
from model.skeleton import read_tokenizer
from train.data.corpus import TEXT_BYTES_PER_TOKEN
from train.data.indexes import open_indexes
from train.data.plan import cost_of, plan_epoch
from train.recipe.config import Config, ModelConfig
from train.recipe.kinds import decided

MODEL_SECONDS = 12.3
"""The mean utterance of LibriSpeech's 960 h of training."""
MODEL_TEXT_BYTES = 14.4
"""A second of audio: LibriSpeech's transcripts."""
DEFAULT_HOURS = 960.0


@dataclass(frozen=True)
class Lengths:
    """The utterances that an epoch takes; arrays [N], or one that stands for `times` of its kind."""

    source: str
    """What to tell a person: where the lengths are from."""
    cached: bool
    """Whether the recipe reads cached frames."""
    samples: np.ndarray
    frames: np.ndarray
    text_bytes: np.ndarray
    longest: int
    """Samples of the longest utterance to expect."""
    longest_text: int
    """Its bytes of text."""
    times: float = 1.0

    @property
    def hours(self) -> float:
        return self.times * float(self.samples.sum()) / SAMPLE_RATE / 3600


@dataclass(frozen=True)
class Work:
    """An epoch's sums."""

    utterances: float
    seconds: float
    tokens: float
    targets: float
    speech: float
    frames: float
    cost: float
    """In tokens of a short utterance, as train/data/plan.py counts."""
    longest_samples: int
    longest_cost: int
    """Of the longest utterance: the least that batch.tokens may be."""
    encoding: float
    """FLOPs of the encoder."""
    answering: float
    """FLOPs of adapter and LLM, forward and backward."""
    cached: bool
    tokens_each: np.ndarray
    """int64 [N], LLM tokens of each utterance, as train/data/corpus.py counts them; each stands for `times`."""
    times: float

    def steps(self, config: Config) -> int:
        """Steps of an epoch: the first epoch's own plan where each utterance is known, else by the sum."""
        tokens, slots = decided(config.batch.tokens), decided(config.batch.micro_batches)
        if self.times == 1 and self.longest_cost <= tokens:
            ids = np.arange(len(self.tokens_each))
            return plan_epoch(ids, self.tokens_each, config.data_seed, 0, tokens, slots).num_steps
        return max(1, math.ceil(self.cost / (tokens * slots)))

    def micro(self, cost: float) -> Micro:
        """A micro-batch of the epoch's mean utterances that costs so much, were all of it short ones: the most."""
        share = cost / self.tokens
        audio = 0.0 if self.cached else SAMPLE_RATE * self.seconds * share
        longest = 0 if self.cached else self.longest_samples
        return Micro(cost, self.targets * share, self.speech * share, self.frames * share, audio, min(longest, audio))


def read_lengths(config: Config, shapes: Shapes, hours: float | None) -> Lengths:
    """Of data.train where all of it is there; else of so many `hours` (960) of LibriSpeech's mean utterance."""
    missing = [path for path in config.data.train if not is_remote(path) and not Path(path).is_dir()]
    if not missing:
        if hours is not None:
            raise UserError("--hours is for data that are not there, and data.train is; leave --hours out")
        return _of_index(config, shapes)
    samples = np.array([int(MODEL_SECONDS * SAMPLE_RATE)])
    longest = int(config.data.max_seconds * SAMPLE_RATE)
    hours = DEFAULT_HOURS if hours is None else hours
    said = (
        f"{missing[0]} is not there: {hours:,.0f} h of utterances of {MODEL_SECONDS} s are assumed, as LibriSpeech's "
        "(--hours says how many)"
    )
    return Lengths(
        said,
        False,
        samples,
        np.asarray(shapes.encoder.frames_of(samples)),
        _text(samples),
        longest,
        int(_text(longest)),
        3600 * hours / MODEL_SECONDS,
    )


def _of_index(config: Config, shapes: Shapes) -> Lengths:
    data, index = config.data, open_indexes(config.data.train)
    seconds = index.samples / SAMPLE_RATE
    kept = (seconds >= data.min_seconds) & (seconds <= data.max_seconds) & (index.characters <= data.max_characters)
    places = np.flatnonzero(kept)[: data.max_train_samples]
    if len(places) == 0:
        raise UserError(f"nothing is left of {counted(len(index), 'utterance')} within the limits of data; widen them")
    cached = index.kind == "features"
    samples = index.samples[places].astype(np.int64)
    frames = index.frames[places].astype(np.int64) if cached else np.asarray(shapes.encoder.frames_of(samples))
    out = f", {len(index) - int(kept.sum()):,} outside the limits of data" if not kept.all() else ""
    said = f"{', '.join(data.train)}: {counted(len(places), 'utterance')} of {index.kind}{out}"
    text = index.text_bytes[places].astype(np.int64)
    longest = int((frames + text).argmax())
    return Lengths(said, cached, samples, frames, text, int(samples.max()), int(text[longest]))


def _text(samples: Any) -> Any:
    return np.asarray(np.ceil(MODEL_TEXT_BYTES * np.asarray(samples) / SAMPLE_RATE), np.int64)


def work_of(lengths: Lengths, shapes: Shapes, around: int) -> Work:
    """The sums over an epoch, its lengths in tokens estimated as train/data/corpus.py does; the prompt has `around`."""
    speech = np.asarray(shapes.speech_of(lengths.frames))
    targets = -(-lengths.text_bytes // TEXT_BYTES_PER_TOKEN) + 1
    tokens = around + speech + targets - 1  # the end is predicted, never fed in
    longest = around + int(shapes.speech_of(_frames(shapes, lengths.longest)))
    longest += -(-lengths.longest_text // TEXT_BYTES_PER_TOKEN) + 1
    answering = adapter_flops(shapes.adapter, speech) + llm_flops(shapes.llm.config, tokens, targets)

    def total(values: Any) -> float:
        return lengths.times * float(np.sum(values, dtype=np.float64))

    return Work(
        utterances=lengths.times * len(tokens),
        seconds=total(lengths.samples) / SAMPLE_RATE,
        tokens=total(tokens),
        targets=total(targets),
        speech=total(speech),
        frames=total(lengths.frames),
        cost=total(cost_of(tokens + 1)),
        longest_samples=lengths.longest,
        longest_cost=int(cost_of(np.array(longest))),
        encoding=total(encoder_flops(shapes.encoder.config, lengths.samples)),
        answering=total(answering),
        cached=lengths.cached,
        tokens_each=np.asarray(tokens + 1, np.int64),
        times=lengths.times,
    )


def _frames(shapes: Shapes, samples: int) -> int:
    frames_of: Callable[[int], int] = shapes.encoder.frames_of
    return frames_of(samples)


def prompt_tokens(model: ModelConfig) -> int:
    """Tokens of the words around the speech, the begin of sequence included.

    By their bytes where the LLM's tokenizer is not on this machine.
    """
    try:
        prompt = Prompt(read_tokenizer(model.llm, model.trust_remote_code), model.prompt)
    except UserError:
        return words_around(model.prompt)
    return len(prompt.prefix_ids) + len(prompt.suffix_ids)


def words_around(prompt: str) -> int:
    """Tokens of the words around the speech and a begin of sequence, by their bytes: no tokenizer is opened."""
    return 1 + sum(-(-len(part.encode()) // TEXT_BYTES_PER_TOKEN) for part in prompt.split(SPEECH))
