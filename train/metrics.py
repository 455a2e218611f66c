"""What a run says while it works: a bar or plain lines, metrics.jsonl, TensorBoard; W&B and MLflow (trackers.py).

Only rank 0 has sinks; on the others every call is a no-op. A sink that cannot be opened is said once and done without:
no metric ever ends a training. What monitors ask every rank for is in gauges.py and exporter.py.
"""

import json
import math
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from data_prep.durable import write_durably
from train.config import Config
from train.tally import Tally


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


class Sink(Protocol):
    """Where figures go."""

    def write(self, step: int, kind: str, figures: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """metrics.jsonl: one object a report, `{"step": .., "kind": "train" | "dev", ...}`."""

    def __init__(self, path: Path, from_step: int) -> None:
        """Lines of steps after `from_step` were written by a run that did not get to save them; they are taken out.

        At step 0 all are: it starts anew.
        """
        old = path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []
        kept = [line for line in old if 0 < from_step and _step_of(line) <= from_step]
        if len(kept) < len(old):
            write_durably(path, "".join(kept).encode())
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 - open as long as the run

    def write(self, step: int, kind: str, figures: dict[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        try:
            self._file.write(json.dumps({"step": step, "kind": kind, **finite}) + "\n")
        except OSError as error:  # of a full disk, which names no file
            raise OSError(error.errno, error.strerror, self._file.name) from None

    def close(self) -> None:
        self._file.close()


def _step_of(line: str) -> float:
    """The step that a line tells of; infinite for one that a crash left torn."""
    try:
        return json.loads(line)["step"] if line.endswith("\n") else math.inf
    except (ValueError, TypeError, KeyError):
        return math.inf


class TensorBoard:
    """Scalars in the run's tensorboard/ folder."""

    def __init__(self, path: Path, from_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(path), purge_step=from_step + 1)

    def write(self, step: int, kind: str, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


class Console:
    """A bar on a terminal, plain lines in a log; on stderr."""

    def __init__(self, total_steps: int, from_step: int) -> None:
        self._bar: Any = None
        self._total = total_steps
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total_steps, initial=from_step, unit="step", dynamic_ncols=True)

    def say(self, text: str) -> None:
        with suppress(OSError):  # the terminal or the pipe may be gone: metrics.jsonl goes on
            if self._bar is not None:
                self._bar.write(text, file=sys.stderr)
            else:
                print(text, file=sys.stderr, flush=True)

    def advance(self) -> None:
        with suppress(OSError):
            if self._bar is not None:
                self._bar.update()

    def write(self, step: int, kind: str, figures: dict[str, float]) -> None:
        shown = "  ".join(f"{LABELS.get(name, name)} {_short(name, value)}" for name, value in figures.items())
        self.say(f"step {step}/{self._total}  {kind + ' ' if kind != 'train' else ''} {shown}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


LABELS = {  # on the console, where there is little room
    "audio_hours_per_hour": "audio-h/h",
    "useful_share": "useful",
    "waited_for_data": "waited",
    "memory_gb": "memory",
    "steps_per_second": "steps/s",
    "seconds_left": "left",
}


def _short(name: str, value: float) -> str:
    if name in ("accuracy", "wer", "cer", "useful_share"):
        return f"{100 * value:.1f}%"
    if name in ("waited_for_data", "memory_gb"):
        return f"{value:.1f} {'s' if name == 'waited_for_data' else 'GB'}"
    if name == "seconds_left":
        return f"{int(value) // 3600}:{int(value) // 60 % 60:02}:{int(value) % 60:02}"
    return f"{value:.4g}"


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
        from train.trackers import track

        sinks += track(folder, config, console.say)
    return Report(sinks, console, every_steps, total_steps)
