"""The plan: which samples make up every optimizer step of an epoch. It does not know how many GPUs there are.

    1. Shuffle all samples by (seed, epoch).
    2. Cut the order into windows; inside one, sort by length, so that a micro-batch holds samples of a kind.
    3. Fill micro-batches to one token budget.
    4. Shuffle the micro-batches, and give every step exactly G of them.

Rank r of R takes the micro-batches r, r + R, ... of each step. So every rank has the same number of them (no epoch can
hang), a position is one number (the step), and another number of GPUs meets the same steps.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import numpy as np


@dataclass(frozen=True)
class Plan:
    """An epoch: micro-batches of sample ids in order, `per_step` (G) of them a step. Every sample is in exactly one."""

    micro_batches: list[np.ndarray]
    """int64 ids each."""
    per_step: int

    @property
    def num_steps(self) -> int:
        return -(-len(self.micro_batches) // self.per_step)

    def step(self, number: int) -> list[np.ndarray]:
        """The G micro-batches of a step; those that the last step lacks are empty."""
        some = self.micro_batches[number * self.per_step : (number + 1) * self.per_step]
        return some + [np.empty(0, np.int64)] * (self.per_step - len(some))


def plan_epoch(
    ids: np.ndarray, tokens: np.ndarray, seed: int, epoch: int, budget: int, per_step: int, window: int
) -> Plan:
    """The plan of an epoch over the samples `ids`, whose LLM tokens are `tokens[ids]`; a pure function.

    `budget` bounds samples x longest sample of a micro-batch, the tokens that are computed. No sample may exceed it.
    """
    random = np.random.default_rng([seed, epoch])
    shuffled = random.permutation(ids)
    micro_batches = [
        batch
        for start in range(0, len(ids), window)
        for batch in _fill(shuffled[start : start + window], tokens, budget)
    ]
    return Plan([micro_batches[i] for i in random.permutation(len(micro_batches))], per_step)


def plan_in_order(ids: np.ndarray, tokens: np.ndarray, budget: int) -> list[np.ndarray]:
    """Micro-batches of all samples, longest first, unshuffled: for validation and decoding."""
    return list(_fill(ids, tokens, budget))


def _fill(ids: np.ndarray, tokens: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Micro-batches of samples of like length, longest first: the first of each decides how many fit."""
    ordered = ids[np.argsort(-tokens[ids], kind="stable")]
    start = 0
    while start < len(ordered):
        fit = int(budget // tokens[ordered[start]])
        assert fit > 0, "a sample is longer than the token budget; the corpus should have refused it"
        yield ordered[start : start + fit]
        start += fit


@dataclass
class Epochs:
    """The run's endless row of epochs, each planned when it is first met."""

    ids: np.ndarray
    tokens: np.ndarray
    seed: int
    budget: int
    per_step: int
    window: int
    _steps: list[int] = field(default_factory=list)
    _latest: tuple[int, Plan] | None = None

    def plan(self, epoch: int) -> Plan:
        """The plan of an epoch, counted from 0."""
        if self._latest is None or self._latest[0] != epoch:
            made = plan_epoch(self.ids, self.tokens, self.seed, epoch, self.budget, self.per_step, self.window)
            self._latest = (epoch, made)
        return self._latest[1]

    def num_steps(self, epoch: int) -> int:
        """Steps of an epoch; they differ a little, as the windows do."""
        while len(self._steps) <= epoch:
            self._steps.append(self.plan(len(self._steps)).num_steps)
        return self._steps[epoch]

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, step inside it) of a step of the run, counted from 0."""
        for epoch in count():
            if step < self.num_steps(epoch):
                return epoch, step
            step -= self.num_steps(epoch)
        raise AssertionError

    def steps_of(self, epochs: float | None, at_most: int | None = None) -> int:
        """Steps of that many epochs, a fraction of the last rounded up, or `at_most`; of the two one is given.

        No epoch is planned that lies beyond.
        """
        if epochs is None:
            assert at_most is not None
            return at_most
        total, whole = 0, int(epochs)
        for epoch in range(whole):
            total += self.num_steps(epoch)
            if at_most is not None and total >= at_most:
                return at_most
        if epochs > whole:
            total += math.ceil(round((epochs - whole) * self.num_steps(whole), 6))  # 1.1 is 1.1000000000000001
        return max(1, total if at_most is None else min(total, at_most))
