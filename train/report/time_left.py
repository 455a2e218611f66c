"""How long a run will still take: its steps and its evaluations, each as long as those that were done.

A report of ten steps is too few to tell by: on a machine with other work its speed jumps by a factor of ten."""

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from math import ceil, inf
from pathlib import Path
from typing import Any

from data_prep.durable import read_records
from train.recipe import auto
from train.recipe.config import Config

STEPS = 200  # the last steps, whose mean counts; saves and measurements between them included


class TimeLeft:
    """Of one process; one that resumes begins with its own first step, as it may be on another machine."""

    def __init__(self, total_steps: int, eval_every: float = 0.0, evaluation_steps: float = 0.0) -> None:
        """Evaluations are `eval_every` steps apart (0: there are none). The first that is timed tells how long they
        take; until then one takes as long as `evaluation_steps` steps."""
        self.total_steps, self._every, self._in_steps = total_steps, eval_every, evaluation_steps
        self._steps: deque[float] = deque(maxlen=STEPS)
        self._evaluation: float | None = None
        self._first = True

    def step(self, seconds: float) -> None:
        """The first step of a process is slower than all others, so that it counts only while it is the only one."""
        if len(self._steps) == 1 and self._first:
            self._steps.clear()
            self._first = False
        self._steps.append(seconds)

    def evaluation(self, seconds: float) -> None:
        self._evaluation = seconds

    def seconds(self, step: int) -> float:
        """To the end of the run, after `step` of its steps; at least one of this process is done."""
        each = sum(self._steps) / len(self._steps)
        evaluation = self._in_steps * each if self._evaluation is None else self._evaluation
        left = self.total_steps - step
        return left * each + (ceil(left / self._every) if self._every else 0) * evaluation


def open_time_left(config: Config, total_steps: int, steps_an_epoch: int, dev_cost: int) -> TimeLeft:
    """For a run whose recipe is decided and whose dev set has this cost (plan.cost_of); 0 without one."""
    if not dev_cost:
        return TimeLeft(total_steps)
    return TimeLeft(total_steps, auto.eval_every(config, steps_an_epoch), auto.evaluation_steps(config, dev_cost))


def reports(folder: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl of a run; none where it cannot be read."""
    with suppress(OSError):
        return [record for record in read_records(folder / "metrics.jsonl") if isinstance(record.get("step"), int)]
    return []


def seconds_of(records: Iterable[dict[str, Any]], after: int = 0) -> float:
    """About what the steps after `after` and the evaluations took that these records of metrics.jsonl tell of."""
    seconds, before = 0.0, after
    for record in records:
        step, speed, took = (record.get(name) for name in ("step", "steps_per_second", "seconds"))
        if isinstance(step, int) and step > after:
            if isinstance(speed, int | float) and 0 < speed < inf:
                seconds, before = seconds + (step - before) / speed, step
            elif isinstance(took, int | float) and took < inf:
                seconds += took
    return seconds
