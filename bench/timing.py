"""What a piece of work costs, side by side with what it is held against: repeats interleaved, medians and spread.

CPU seconds are those of this process and of its children that have ended, so every worker process must have been
waited for when the work returns. They depend little on what else the machine does; wall seconds do. Nothing is pinned
to cores.
"""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Of one piece of work, in seconds."""

    cpu: float
    wall: float

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.cpu - other.cpu, self.wall - other.wall)


def cost(work: Callable[[], object]) -> Cost:
    """CPU seconds over all cores, ended children included, and seconds on the wall."""
    gc.collect()
    cpu, wall = _cpu_seconds(), time.perf_counter()
    work()
    return Cost(_cpu_seconds() - cpu, time.perf_counter() - wall)


def side_by_side(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[Cost]]:
    """Costs by name: all works once each, unmeasured, to warm up, then `repeats` times one after the other."""
    for work in works.values():
        work()
    costs: dict[str, list[Cost]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            costs[name].append(cost(work))
    return costs


def ratios(costs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """How many times ours each is, repeat by repeat."""
    return [theirs / own for theirs, own in zip(costs, ours, strict=True)]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """The lowest and the highest, and how many there are."""
    return f"{min(values):.3g} to {max(values):.3g} in {len(values)}"


def _cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
