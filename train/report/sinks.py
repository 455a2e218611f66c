"""Where a run's figures go: metrics.jsonl, the terminal, TensorBoard."""

import json
import math
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from data_prep.durable import write_durably


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
