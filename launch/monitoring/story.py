"""What the files of a run tell of it, read again and again while it grows; nothing in them is trusted."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.durable import open_regular
from data_prep.text import printable
from model.errors import UserError
from train.liveness.exit_status import FINISHED, STOPPED

MOST_BYTES = 1 << 26
"""Read at one look; a longer line is none of ours."""
SILENT_SECONDS = 120.0
SILENT_REPORTS = 10
"""A run is silent that has said nothing for so long, and for so many reports' time."""
BEYOND = 1e15
"""No figure of ours is larger: what is not, is passed over."""


@dataclass
class Tail:
    """The whole lines of a growing JSONL file, each once; from the start again where it was replaced."""

    path: Path
    written_at: float = 0.0
    """When it was last written to, in Unix time; 0 before it is there."""
    _inode: int = 0
    _offset: int = 0

    def new(self) -> tuple[bool, list[dict[str, Any]]]:
        """Whether what was told before holds no more, and the objects since. What is torn is passed over."""
        try:
            with open_regular(self.path) as file:
                status = os.fstat(file.fileno())
                self.written_at = status.st_mtime
                anew = (status.st_ino, True) != (self._inode, status.st_size >= self._offset)
                self._inode, self._offset = status.st_ino, 0 if anew else self._offset
                file.seek(self._offset)
                data = file.read(MOST_BYTES)
        except OSError:
            return False, []
        whole = data[: data.rfind(b"\n") + 1] or (data if len(data) == MOST_BYTES else b"")
        self._offset += len(whole)
        return anew, [told for line in whole.split(b"\n") if (told := _object(line))]


def _object(line: bytes) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        told = json.loads(line)
        if isinstance(told, dict):
            return told
    return {}


@dataclass
class Story:
    """A run so far."""

    folder: Path
    losses: list[float | None] = field(default_factory=list)
    """Of every report, None where it was not finite."""
    last: dict[str, float] = field(default_factory=dict)
    """The last report."""
    dev: dict[str, float] = field(default_factory=dict)
    """The last scores on the dev set."""
    best_wer: float | None = None
    best_wer_step: int = 0
    skipped: int = 0
    lost: int = 0
    report_steps: int = 0
    """Between the last two reports."""

    def __post_init__(self) -> None:
        self._metrics, self._skipped, self._lost = (
            Tail(self.folder / f"{name}.jsonl") for name in ("metrics", "skipped", "lost")
        )

    def read_on(self) -> None:
        """Takes in what was written since."""
        anew, rows = self._metrics.new()
        if anew:
            self.losses, self.last, self.dev, self.best_wer, self.report_steps = [], {}, {}, None, 0
        for row in rows:
            figures = {name: float(value) for name, value in row.items() if _is_figure(value)}
            if "step" in figures:
                self._take(row.get("kind"), figures)
        for tail, name in ((self._skipped, "skipped"), (self._lost, "lost")):
            anew, rows = tail.new()
            setattr(self, name, len(rows) + (0 if anew else getattr(self, name)))

    def _take(self, kind: Any, figures: dict[str, float]) -> None:
        if kind == "train":
            self.losses.append(figures.get("loss"))
            self.report_steps = int(figures["step"] - self.last.get("step", 0))
            self.last = figures
        elif kind == "dev":
            self.dev = figures
            wer = figures.get("wer")
            if wer is not None and (self.best_wer is None or wer < self.best_wer):
                self.best_wer, self.best_wer_step = wer, int(figures["step"])

    @property
    def step(self) -> int:
        return int(max(self.last.get("step", 0), self.dev.get("step", 0)))

    @property
    def total_steps(self) -> int | None:
        """As the last report implies it, by its rate and the time left; None before the first."""
        left, rate = self.last.get("seconds_left"), self.last.get("steps_per_second")
        return None if left is None or rate is None else int(self.last["step"]) + round(left * rate)

    def age(self, now: float) -> float | None:
        """Seconds since anything was reported, by the file system's clock; None before the first report."""
        return max(0.0, now - self._metrics.written_at) if self._metrics.written_at else None

    def is_silent(self, now: float) -> bool:
        """Whether its last report is so old that something may be wrong."""
        rate, age = self.last.get("steps_per_second"), self.age(now)
        usual = self.report_steps / rate if rate else 0.0
        return age is not None and age > max(SILENT_SECONDS, SILENT_REPORTS * usual)

    def ended(self) -> str:
        """How it ended, as its marker says; "" while it goes on, or if it crashed."""
        for name, form in ((FINISHED, "finished at step {}"), (STOPPED, "stopped as asked after step {}{}")):
            with suppress(OSError), open_regular(self.folder / name) as file:
                step, _, reason = file.read(200).decode(errors="replace").strip().partition(" ")
                return form.format(printable(step), f" ({printable(reason)})" if reason else "")
        return ""


def open_story(folder: Path) -> Story:
    """UserError for a folder that is no run."""
    if not any((folder / name).is_file() for name in ("metrics.jsonl", "config.yaml")):
        what = "holds no run" if folder.is_dir() else "is no folder"
        raise UserError(f"{str(folder)!r} {what}: there is no metrics.jsonl; give the run.dir of a training")
    story = Story(folder)
    story.read_on()
    return story


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < BEYOND
