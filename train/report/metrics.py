"""The report of a run: sums of steps, written every log.every_steps to the console, metrics.jsonl and trackers.

Only rank 0 has sinks; on the others every call does nothing. A sink that fails is named once and dropped: no metric
ends a training. What Prometheus scrapes from every rank is in prometheus.py."""

import math
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from train.data.loader import Share
from train.dist.collectives import World
from train.liveness import stop
from train.recipe.config import Config
from train.report.sinks import Console, JsonLines, Sink, TensorBoard
from train.report.time_left import TimeLeft
from train.report.trackers import open_trackers


@dataclass(frozen=True)
class StepSums:
    """Sums over all ranks, of the finished step and of the next one, whose loss is divided by its target tokens, and
    whose read errors end the run on all ranks or on none."""

    loss: float  # of the step's answer tokens, summed
    correct: int  # its answer tokens that were predicted
    seconds: float  # audio in it
    stops: int  # ranks that were asked to stop
    targets: int  # answer tokens of the next step
    faults: int  # ranks that could not read their share of it
    lost: int  # utterances of it that could not be read and are left out
    waited: tuple[float, ...]  # seconds that each rank waited for its share of it


def add_up(world: World, loss: float, correct: float, done: Share | None, coming: Share) -> StepSums:
    """The sums after a step that is `done` (None before the first), with the `coming` one, in one all_reduce. A
    collective."""
    waits = [0.0] * world.size
    waits[world.rank] = coming.waited
    targets = sum(slot.batch.num_targets for slot in coming.slots if slot.counts)
    loss, correct, seconds, stops, targets, faults, lost, *waited = world.sum(
        *(loss, correct, done.seconds if done else 0.0, float(stop.asked())),
        *(targets, float(coming.fault is not None), len(coming.lost)),
        *waits,
    )
    return StepSums(loss, int(correct), seconds, int(stops), int(targets), int(faults), int(lost), tuple(waited))


@dataclass(frozen=True)
class StepResult:
    """One optimizer step."""

    num_targets: int  # answer tokens of all ranks
    grad_norm: float  # before clipping; not finite if the step was skipped
    lr: float
    load_balance: float  # work of the mean rank over that of the busiest
    sums: StepSums


class Report:
    """Adds up steps and writes the figures to every sink, each `every_steps` steps."""

    def __init__(self, sinks: Sequence[Sink], console: Console | None, every_steps: int, time_left: TimeLeft) -> None:
        self._sinks, self._time_left = [*sinks, *([console] if console else [])], time_left
        self._console, self._every, self._total = console, every_steps, time_left.total_steps
        self._steps: list[StepResult] = []  # since the last report
        self._seconds, self._since = 0.0, time.monotonic()  # they took; when the current one began
        self._extra: dict[str, float] = {}

    def also(self, sink: Sink) -> None:
        """Adds a sink, on rank 0."""
        if self._console is not None:
            self._sinks.append(sink)

    def say(self, text: str) -> None:
        if self._console is not None:
            self._console.say(text)

    def step(self, step: int, epoch: int, result: StepResult) -> dict[str, float] | None:
        """Adds the latest of `step` steps; the figures if a report is due."""
        self._steps.append(result)
        self._time_left.step(lap := self._lap())
        self._seconds += lap
        if self._console is not None:
            self._console.advance()
        if step % self._every and step != self._total:
            return None
        figures = self._figures(step, epoch)
        self._write(step, "train", figures)
        self._steps, self._seconds, self._extra = [], 0.0, {}
        return figures

    def note(self, name: str, figure: float) -> None:
        """Adds a figure to the next report."""
        self._extra[name] = figure

    def evaluation(self, step: int, scores: dict[str, float]) -> None:
        """Reports validation scores; the time they took does not count for the training rate."""
        self._time_left.evaluation(seconds := self._lap())
        self._write(step, "dev", scores | {"seconds": seconds})

    def _lap(self) -> float:
        now = time.monotonic()
        lap, self._since = now - self._since, now
        return lap

    def _figures(self, step: int, epoch: int) -> dict[str, float]:
        steps, seconds = self._steps, max(self._seconds, 1e-9)
        finite = [result for result in steps if math.isfinite(result.grad_norm)]
        targets = max(1, sum(result.num_targets for result in finite))
        waits = np.array([result.sums.waited for result in steps])  # [steps, ranks]
        figures: dict[str, float] = {
            "epoch": epoch,
            "loss": sum(result.sums.loss for result in finite) / targets if finite else math.nan,
            "accuracy": sum(result.sums.correct for result in finite) / targets,
            "lr": steps[-1].lr,
            "grad_norm": steps[-1].grad_norm,
            "audio_hours_per_hour": sum(result.sums.seconds for result in steps) / seconds,
            "useful_share": sum(result.load_balance for result in steps) / len(steps),
            "waited_for_data": float(waits.max(axis=1).sum()),
            "memory_gb": memory_bytes() / 1e9,
            "steps_per_second": len(steps) / seconds,
            "seconds_left": self._time_left.seconds(step),
        }
        if skipped := len(steps) - len(finite):
            figures["skipped"] = skipped
        if waits.max() > 0.1 * seconds and waits.shape[1] > 1:
            figures["waited_longest"] = int(waits.sum(axis=0).argmax())
        return figures | self._extra

    def _write(self, step: int, kind: str, figures: dict[str, float]) -> None:
        for sink in list(self._sinks):
            try:
                sink.write(step, kind, figures)
            except OSError as error:
                self._sinks.remove(sink)
                self.say(f"{type(sink).__name__} is switched off: {error}")

    def end_bar(self) -> None:
        """Ends the progress bar, so that what is printed next has lines of its own."""
        if self._console is not None:
            self._console.close()

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


def memory_bytes() -> int:
    """Peak memory of this rank: of its GPU, or of the host without one."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def open_report(folder: Path, config: Config, time_left: TimeLeft, from_step: int, first: bool) -> Report:
    """The run's report, with sinks on the first rank."""
    sinks: list[Sink] = []
    if not first:
        return Report(sinks, None, config.log.every_steps, time_left)
    console = Console(time_left.total_steps, from_step)
    kinds = {"metrics.jsonl": JsonLines, **({"tensorboard": TensorBoard} if config.log.tensorboard else {})}
    for name, kind in kinds.items():
        try:
            sinks.append(kind(folder / name, from_step))
        except (OSError, ImportError) as error:
            console.say(f"no {name}: {error}; training goes on without it")
    sinks += open_trackers(folder, config, console.say)
    return Report(sinks, console, config.log.every_steps, time_left)
