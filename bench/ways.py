"""Ways to train on the same utterances, timed side by side.

A pass takes every utterance forward and backward once and ends with one update of the adapter at learning rate 0, so
that each repeat computes the same. Both sides build their batches inside the measured time; nothing is read from disk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.batching import dynamic_batches, random_batches
from bench.goal import Goal
from bench.lengths import Lengths
from bench.loops import slam_llm
from bench.timing import ratios, side_by_side
from bench.toys import TOYS, Spoken, make_speech, open_recogniser, write_models
from model.batch import pack
from model.slam_asr import SlamAsr
from train.data.plan import cost_of, plan_epoch

EXACT, CLOSE = 1e-4, 3e-3  # of the mean negative log likelihood a token
BATCH = 8  # utterances of the others' batches, and of ours on average

Loss = Callable[[SlamAsr, Sequence[Spoken]], Tensor]


@dataclass(frozen=True)
class Way:
    """One way to train on the utterances: a model, how it is fed, and what it computes."""

    model: SlamAsr
    spoken: list[Spoken]
    batches: list[np.ndarray]
    loss: Loss
    tolerance: float


@dataclass(frozen=True)
class Measured:
    """What the ways took, CPU seconds a pass in each repeat, and how far their likelihoods lie apart."""

    seconds: dict[str, list[float]]
    apart: float

    def ratio(self, number: str, name: str, slow: str, fast: str, goal: float, note: str) -> Goal:
        """How many times as long `slow` takes as `fast`."""
        found = ratios(self.seconds[slow], self.seconds[fast])
        spread = f"{min(found):.2f} to {max(found):.2f}"
        medians = f"{np.median(self.seconds[slow]):.2f} s and {np.median(self.seconds[fast]):.2f} s"
        return Goal(number, name, float(np.median(found)), goal, "higher", "x", spread, f"{medians} a pass; {note}")


def ours(model: SlamAsr, spoken: Sequence[Spoken]) -> Tensor:
    """The product's own forward."""
    cached = [one.frames for one in spoken if one.frames is not None]
    batch = pack(
        [str(i) for i in range(len(spoken))],
        [one.text for one in spoken],
        [one.targets for one in spoken],
        waves=None if cached else [one.wave for one in spoken],
        features=cached or None,
    )
    return model(batch.to(model.device)).loss


def only_batching(model: SlamAsr, spoken: Sequence[Spoken]) -> Tensor:
    """The padded loop with our logits: what is left to differ is the batching."""
    return slam_llm(model, spoken, label_logits=True)


def measure(ways: dict[str, Way], repeats: int) -> Measured:
    """CPU time of each, interleaved, after one pass that is not counted; AssertionError if their losses differ."""
    nlls: dict[str, float] = {}

    def work(name: str, way: Way) -> None:
        nlls[name] = one_pass(way)

    costs = side_by_side({name: partial(work, name, way) for name, way in ways.items()}, repeats)
    first = next(iter(nlls.values()))
    for name, way in ways.items():
        off = abs(nlls[name] / first - 1)
        assert off <= way.tolerance, f"{name} has a loss of {nlls[name]:.6f} a token, the first way {first:.6f}"
    seconds = {name: [cost.cpu for cost in found] for name, found in costs.items()}
    return Measured(seconds, max(abs(nll / first - 1) for nll in nlls.values()))


def one_pass(way: Way) -> float:
    """All utterances forward and backward, and one update; the negative log likelihood a token."""
    tokens = sum(len(one.targets) for one in way.spoken)
    adam = torch.optim.AdamW(way.model.adapter.parameters(), lr=0.0)
    way.model.train()
    total = 0.0
    for batch in way.batches:
        loss = way.loss(way.model, [way.spoken[i] for i in batch])
        (loss / tokens).backward()
        total += float(loss.detach())
    adam.step()
    adam.zero_grad(set_to_none=True)
    return total / tokens


def tokens_of(model: SlamAsr, spoken: Sequence[Spoken]) -> np.ndarray:
    """LLM tokens of each utterance, int64 [N]."""
    assert model.encoder is not None
    around = len(model.prompt.prefix_ids) + len(model.prompt.suffix_ids)
    frames = [model.encoder.out_len(len(one.wave)) for one in spoken]
    return np.array(
        [around + model.adapter.out_len(t) + len(one.targets) for t, one in zip(frames, spoken, strict=True)]
    )


def planned(tokens: np.ndarray, size: int = BATCH) -> list[np.ndarray]:
    """The micro-batches of our plan, as many as batches of `size` would be."""
    costs, per_step = cost_of(tokens), -(-len(tokens) // size)
    budget = int(max(1.25 * size * costs.mean(), costs.max()))
    plan = plan_epoch(np.arange(len(tokens)), tokens, 0, 0, budget, per_step)
    return [batch for step in range(plan.num_steps) for batch in plan.step(step) if len(batch)]


def cached(model: SlamAsr, spoken: Sequence[Spoken]) -> list[Spoken]:
    """The same with their frames in bfloat16, as the feature cache keeps them."""
    assert model.encoder is not None
    frames = [model.encoder(one.wave, torch.tensor([0, len(one.wave)]))[0].to(torch.bfloat16) for one in spoken]
    return [replace(one, frames=part) for one, part in zip(spoken, frames, strict=True)]


class Bench:
    """The models of one toy, in float32 and with frozen parts in bfloat16, and utterances for them."""

    def __init__(self, toy: str, folder: Path, lengths: Lengths) -> None:
        write_models(TOYS[toy], folder)
        self.exact = open_recogniser(folder, TOYS[toy].hidden, "float32")
        self.half = open_recogniser(folder, TOYS[toy].hidden, "bfloat16")
        self.spoken = make_speech(lengths, self.exact.prompt, 0)
        self.cached = cached(self.exact, self.spoken)
        self.tokens = tokens_of(self.exact, self.spoken)
        self.note = f"toy {toy}, {len(lengths)} utterances, {lengths.source}"

    def others(self, loss: Loss, spoken: list[Spoken], tolerance: float = EXACT) -> Way:
        return Way(self.exact, spoken, random_batches(self.tokens, BATCH, 0), loss, tolerance)

    def dynamic(self, loss: Loss, spoken: list[Spoken]) -> Way:
        budget = int(BATCH * self.tokens.mean())
        return Way(self.exact, spoken, dynamic_batches(self.tokens, budget, 0), loss, CLOSE)

    def padded(self, batches: Sequence[np.ndarray]) -> float:
        """Tokens that are computed when each batch is padded to its longest, of those that there are."""
        return float(sum(len(batch) * self.tokens[batch].max() for batch in batches) / self.tokens.sum())

    def ours(self, model: SlamAsr, spoken: list[Spoken], tolerance: float) -> Way:
        return Way(model, spoken, planned(self.tokens), ours, tolerance)
