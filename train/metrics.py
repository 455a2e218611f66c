"""What a run says while it works: a bar or plain lines, metrics.jsonl, TensorBoard.

Only rank 0 has sinks; on the others every call is a no-op. A sink that cannot be opened is said once and done without:
no metric ever ends a training.
"""

import json
import math
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from data_prep.durable import write_durably


@dataclass(frozen=True)
class StepResult:
    """One optimizer step, summed over all ranks."""

    loss: float
    """Sum over the answer tokens."""
    num_targets: int
    num_correct: int
    grad_norm: float
    """Before clipping."""
    lr: float
    audio_seconds: float


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
        self._file.write(json.dumps({"step": step, "kind": kind, **finite}) + "\n")

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
        shown = "  ".join(f"{name} {_short(name, value)}" for name, value in figures.items())
        self.say(f"step {step}/{self._total}  {kind + ' ' if kind != 'train' else ''} {shown}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _short(name: str, value: float) -> str:
    if name in ("accuracy", "wer", "cer"):
        return f"{100 * value:.1f}%"
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
        self._since = time.monotonic()

    def say(self, text: str) -> None:
        """One line for a person."""
        if self._console is not None:
            self._console.say(text)

    def step(self, step: int, epoch: int, result: StepResult) -> None:
        """`step` steps are done; the latest gave `result`."""
        self._window.append(result)
        self._seconds += self._lap()
        if self._console is not None:
            self._console.advance()
        if step % self._every == 0 or step == self._total:
            self._tell(step, "train", self._figures(step, epoch))
            self._window, self._seconds = [], 0.0

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
        targets = sum(result.num_targets for result in window)
        return {
            "epoch": epoch,
            "loss": sum(result.loss for result in window) / targets,
            "accuracy": sum(result.num_correct for result in window) / targets,
            "lr": window[-1].lr,
            "grad_norm": window[-1].grad_norm,
            "audio_hours_per_hour": sum(result.audio_seconds for result in window) / seconds,
            "steps_per_second": len(window) / seconds,
            "seconds_left": (self._total - step) * seconds / len(window),
        }

    def _tell(self, step: int, kind: str, figures: dict[str, float]) -> None:
        for sink in list(self._sinks):
            try:
                sink.write(step, kind, figures)
            except OSError as error:
                self._sinks.remove(sink)
                self.say(f"{type(sink).__name__} is switched off: {error}")

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


def open_report(
    folder: Path, every_steps: int, tensorboard: bool, total_steps: int, from_step: int, first: bool
) -> Report:
    """The run's report: with sinks on the first rank, silent on the others."""
    if not first:
        return Report([], None, every_steps, total_steps)
    console = Console(total_steps, from_step)
    sinks: list[Sink] = []
    makers: list[tuple[Any, str]] = [
        (JsonLines, "metrics.jsonl"),
        *([(TensorBoard, "tensorboard")] if tensorboard else []),
    ]
    for sink, name in makers:
        try:
            sinks.append(sink(folder / name, from_step))
        except (OSError, ImportError) as error:
            console.say(f"no {name}: {error}; training goes on without it")
    return Report(sinks, console, every_steps, total_steps)
