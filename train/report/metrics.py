"""What a run says while it works: a bar or plain lines, metrics.jsonl, TensorBoard; W&B and MLflow (trackers.py).

Only rank 0 has sinks; on the others every call is a no-op. A sink that cannot be opened is said once and done without:
no metric ever ends a training. What monitors ask every rank for is in gauges.py and exporter.py.
"""

import math
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.recipe.config import Config
from train.report.sinks import Console, JsonLines, Sink, TensorBoard
from train.report.step_sums import Tally


@dataclass(frozen=True)
class StepResult:
    """One optimizer step."""

    num_targets: int
    """Answer tokens of all ranks."""
    grad_norm: float
    """Before clipping; not finite where the step was skipped."""
    lr: float
    useful_share: float
    """Work of the mean rank over that of the busiest."""
    tally: Tally
    """What came of it, over all ranks."""


class Report:
    """Adds steps up and tells every sink, each `every_steps` steps."""

    def __init__(self, sinks: Sequence[Sink], console: Console | None, every_steps: int, total_steps: int) -> None:
        self._sinks = [*sinks, *([console] if console else [])]
        self._console = console
        self._every, self._total = every_steps, total_steps
        self._window: list[StepResult] = []
        self._seconds = 0.0  # that its steps took
        self._extra: dict[str, float] = {}
        self._since = time.monotonic()

    def also(self, sink: Sink) -> None:
        """Tells one more sink from now on; of no use on a rank that is silent."""
        if self._console is not None:
            self._sinks.append(sink)

    def say(self, text: str) -> None:
        """One line for a person."""
        if self._console is not None:
            self._console.say(text)

    def step(self, step: int, epoch: int, result: StepResult) -> dict[str, float] | None:
        """`step` steps are done; the latest gave `result`. The figures, where it is time for a report."""
        self._window.append(result)
        self._seconds += self._lap()
        if self._console is not None:
            self._console.advance()
        if step % self._every and step != self._total:
            return None
        figures = self._figures(step, epoch)
        self._tell(step, "train", figures)
        self._window, self._seconds, self._extra = [], 0.0, {}
        return figures

    def note(self, name: str, figure: float) -> None:
        """A figure for the next report."""
        self._extra[name] = figure

    def evaluation(self, step: int, scores: dict[str, float]) -> None:
        """Validation scores after `step` steps. The time it took is not counted in the training rate."""
        self._tell(step, "dev", scores)
        self._lap()

    def _lap(self) -> float:
        now = time.monotonic()
        lap, self._since = now - self._since, now
        return lap

    def _figures(self, step: int, epoch: int) -> dict[str, float]:
        window, seconds = self._window, max(self._seconds, 1e-9)
        counted = [result for result in window if math.isfinite(result.grad_norm)]
        targets = max(1, sum(result.num_targets for result in counted))
        waits = np.array([result.tally.waited for result in window])  # [steps, ranks]
        figures: dict[str, float] = {
            "epoch": epoch,
            "loss": sum(result.tally.loss for result in counted) / targets if counted else math.nan,
            "accuracy": sum(result.tally.correct for result in counted) / targets,
            "lr": window[-1].lr,
            "grad_norm": window[-1].grad_norm,
            "audio_hours_per_hour": sum(result.tally.seconds for result in window) / seconds,
            "useful_share": sum(result.useful_share for result in window) / len(window),
            "waited_for_data": float(waits.max(axis=1).sum()),
            "memory_gb": memory_bytes() / 1e9,
            "steps_per_second": len(window) / seconds,
            "seconds_left": (self._total - step) * seconds / len(window),
        }
        if len(counted) < len(window):
            figures["skipped"] = len(window) - len(counted)
        if waits.max() > 0.1 * seconds and waits.shape[1] > 1:
            figures["waited_longest"] = int(waits.sum(axis=0).argmax())
        return figures | self._extra

    def _tell(self, step: int, kind: str, figures: dict[str, float]) -> None:
        for sink in list(self._sinks):
            try:
                sink.write(step, kind, figures)
            except OSError as error:
                self._sinks.remove(sink)
                self.say(f"{type(sink).__name__} is switched off: {error}")

    def end_bar(self) -> None:
        """What is printed from now on stands on lines of its own."""
        if self._console is not None:
            self._console.close()

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


def memory_bytes() -> int:
    """The most memory that this rank has used: of its GPU, or of the host where it has none."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def open_report(folder: Path, config: Config, total_steps: int, from_step: int, first: bool) -> Report:
    """The run's report: with sinks on the first rank, silent on the others."""
    log, every_steps = config.log, config.log.every_steps
    if not first:
        return Report([], None, every_steps, total_steps)
    console = Console(total_steps, from_step)
    sinks: list[Sink] = []
    makers: list[tuple[Any, str]] = [
        (JsonLines, "metrics.jsonl"),
        *([(TensorBoard, "tensorboard")] if log.tensorboard else []),
    ]
    for sink, name in makers:
        try:
            sinks.append(sink(folder / name, from_step))
        except (OSError, ImportError) as error:
            console.say(f"no {name}: {error}; training goes on without it")
    if log.wandb or log.mlflow:
        from train.report.trackers import track

        sinks += track(folder, config, console.say)
    return Report(sinks, console, every_steps, total_steps)
