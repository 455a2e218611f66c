"""The plan: which samples make up every optimizer step of an epoch. It does not know how many GPUs there are.

    1. Shuffle all samples by (seed, epoch), or those of a few shards at a time (data.shuffle_shards).
    2. Cut the order into steps of equal cost, as few as the token budget allows.
    3. Deal each step's samples to its G micro-batches, the costly first, each time to the cheapest so far.

Rank r of R takes the micro-batches r, r + R, ... of each step. So every rank has the same number of them (no epoch can
hang) and as much work as the others, a position is one number (the step), and another number of GPUs meets the same
steps. A step's samples are a plain random draw: nothing is padded, so nothing has to be sorted by length."""

import hashlib
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

QUADRATIC_TOKENS = 4000
"""The length at which attention costs as much as all the rest. HuBERT-XL with TinyLlama computes 170 GFLOP a second of
audio at 12.3 s (188 tokens), of which 7.5 are attention: 188 x (170 - 7.5) / 7.5."""


def cost_of(tokens: np.ndarray) -> np.ndarray:
    """What samples of `tokens` LLM tokens cost, in tokens of a short one: a T + b T^2 in whole numbers, int64."""
    tokens = np.asarray(tokens, np.int64)
    return tokens + tokens * tokens // QUADRATIC_TOKENS


@dataclass(frozen=True)
class Plan:
    """An epoch: every sample is in exactly one micro-batch, every step has exactly `per_step` (G) of them."""

    order: np.ndarray  # int64 [samples], ids, micro-batch after micro-batch
    starts: np.ndarray  # int64 [steps x G + 1], where each micro-batch begins in `order`
    costs: np.ndarray  # int64 [samples], cost_of each, in `order`
    per_step: int

    @property
    def num_steps(self) -> int:
        return (len(self.starts) - 1) // self.per_step

    def step(self, number: int) -> list[np.ndarray]:
        """The G micro-batches of a step; one is empty only where the step has fewer samples than G."""
        first = number * self.per_step
        starts = self.starts[first : first + self.per_step + 1].tolist()
        return [self.order[start:end] for start, end in zip(starts, starts[1:], strict=False)]

    def load_balance(self, number: int, ranks: int) -> float:
        """The mean rank's work in a step over that of the busiest, in (0, 1]: 1 where none waits for another."""
        starts = self.starts[number * self.per_step : (number + 1) * self.per_step + 1]
        done = np.concatenate([[0], self.costs[starts[0] : starts[-1]].cumsum()])
        loads = np.zeros(-(-self.per_step // ranks) * ranks, np.int64)
        loads[: self.per_step] = np.diff(done[starts - starts[0]])
        work = loads.reshape(-1, ranks).sum(axis=0)
        return float(work.mean() / work.max())

    def digest(self) -> str:
        """sha256 (hex): equal for the same samples in the same steps."""
        return hashlib.sha256(self.order.tobytes() + self.starts.tobytes()).hexdigest()


@dataclass(frozen=True)
class ShardWindow:
    """Samples of a few shards at a time, where the shards are too many to have at once."""

    shard: np.ndarray  # int [N], the shard of each sample
    at_once: int  # shards that are shuffled together; which ones is drawn anew for each epoch


def plan_epoch(
    ids: np.ndarray,
    tokens: np.ndarray,
    seed: int,
    epoch: int,
    budget: int,
    per_step: int,
    window: ShardWindow | None = None,
) -> Plan:
    """The plan of an epoch over the samples `ids`, whose LLM tokens are `tokens[ids]`; a pure function.

    `budget` bounds the cost, and with it the tokens, of a micro-batch. No sample may exceed it. Shuffled are all
    samples, or those of the shards that `window` takes together."""
    random = np.random.default_rng([seed, epoch])
    shuffled = random.permutation(ids)
    if window is not None:
        turns = random.permutation(int(window.shard.max()) + 1) // window.at_once
        shuffled = shuffled[np.argsort(turns[window.shard[shuffled]], kind="stable")]
    costs = cost_of(tokens[shuffled])
    assert len(costs) and costs.max() <= budget, "a sample exceeds the token budget; the corpus should have refused it"
    steps = math.ceil(int(costs.sum()) / (budget * per_step))
    while True:
        step_of = _cut(costs, steps)
        by_step = np.lexsort((-costs, step_of))
        slots, fullest = _deal(costs[by_step], np.bincount(step_of), per_step)
        if fullest <= budget:
            break
        steps += max(1, steps // 64)
    micro_batch = step_of[by_step] * per_step + slots
    sizes = np.bincount(micro_batch, minlength=(int(step_of.max()) + 1) * per_step)
    order = by_step[np.argsort(micro_batch, kind="stable")]
    return Plan(shuffled[order], np.concatenate([[0], sizes.cumsum()]), costs[order], per_step)


def _cut(costs: np.ndarray, steps: int) -> np.ndarray:
    """costs [N] -> the step of each sample, int64 [N], rising from 0: consecutive shares of equal cost, none empty."""
    middle = 2 * costs.cumsum() - costs
    return np.unique(middle * steps // (2 * costs.sum()), return_inverse=True)[1]


def _deal(costs: np.ndarray, sizes: np.ndarray, slots: int) -> tuple[np.ndarray, int]:
    """Deals the samples of every step to its slots; the slot of each, int64 [N], and the cost of the fullest slot.

    costs [N] lie step after step, `sizes` of them in each, falling within a step. All steps are dealt at once: in each
    round a quarter of a step's slots, the cheapest so far, take one sample each. A rule that takes the costly first
    leaves the small ones to even out what differs (longest processing time first; Graham, 1969)."""
    steps, at_once = len(sizes), max(1, slots // 4)
    row = np.repeat(np.arange(steps), sizes)
    column = np.arange(len(costs)) - np.repeat(sizes.cumsum() - sizes, sizes)
    table = np.zeros((steps, -(-int(sizes.max()) // at_once) * at_once), np.int64)
    table[row, column] = costs
    slot = np.empty_like(table)
    load = np.zeros((steps, slots), np.int64)
    every = np.arange(steps)[:, None]
    for start in range(0, table.shape[1], at_once):
        cheapest = load.argsort(axis=1, kind="stable")[:, :at_once]  # stable: the same on every processor
        load[every, cheapest] += table[:, start : start + at_once]
        slot[:, start : start + at_once] = cheapest
    return slot[row, column], int(load.max())


def plan_in_order(ids: np.ndarray, tokens: np.ndarray, budget: int) -> list[np.ndarray]:
    """Micro-batches of all samples, longest first, unshuffled, to a budget of samples x longest: for validation."""
    left, batches = ids[np.argsort(-tokens[ids], kind="stable")], []
    while len(left):
        fit = int(budget // tokens[left[0]])
        assert fit > 0, "a sample is longer than the token budget; the corpus should have refused it"
        batches.append(left[:fit])
        left = left[fit:]
    return batches


@dataclass
class Epochs:
    """The run's endless row of epochs, each planned when it is first met. Threads may share it."""

    ids: np.ndarray
    tokens: Callable[[int], np.ndarray]
    """The samples' LLM tokens in an epoch, int64 [N] (speed perturbation changes them)."""
    seed: int
    budget: int
    per_step: int
    window: ShardWindow | None = None
    _steps: list[int] = field(default_factory=list)
    _latest: dict[int, Plan] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def plan(self, epoch: int) -> Plan:
        """The plan of an epoch, counted from 0; the two latest are kept."""
        with self._lock:
            if epoch not in self._latest:
                given = self.ids, self.tokens(epoch), self.seed, epoch, self.budget, self.per_step, self.window
                self._latest = {**dict(list(self._latest.items())[-1:]), epoch: plan_epoch(*given)}
            return self._latest[epoch]

    @cached_property
    def digest(self) -> str:
        """Of the first epoch's plan: it stands for all of them."""
        return self.plan(0).digest()

    def num_steps(self, epoch: int) -> int:
        """Steps of an epoch; they may differ a little, as the draws do."""
        while len(self._steps) <= epoch:
            self._steps.append(self.plan(len(self._steps)).num_steps)
        return self._steps[epoch]

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, step inside it) of a step of the run, counted from 0."""
        epoch = 0
        while step >= self.num_steps(epoch):
            step, epoch = step - self.num_steps(epoch), epoch + 1
        return epoch, step

    def steps_of(self, epochs: float | None, at_most: int | None = None) -> int:
        """Steps of that many epochs, a fraction of the last rounded up, or `at_most`; at least one of the two is given.
        No epoch is planned that lies beyond."""
        if epochs is None:
            assert at_most is not None
            return at_most
        total, epoch = 0, 0
        while epoch < epochs and (at_most is None or total < at_most):
            share = min(1.0, epochs - epoch)
            total += math.ceil(round(share * self.num_steps(epoch), 6))  # 1.1 is 1.1000000000000001
            epoch += 1
        return max(1, total if at_most is None else min(total, at_most))
