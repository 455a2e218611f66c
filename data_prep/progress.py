"""How a long job shows how far it is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts to `total`, on stderr. `with Progress(n, label="build") as progress: progress.advance(1, hours=0.3)`."""

    def __init__(self, total: int, unit: str = "utterances", label: str = "", log_lines: bool = True) -> None:
        """`log_lines`: whether to print lines of its own where there is no terminal."""
        self.total, self.unit, self.label, self.log_lines = total, unit, label, log_lines
        self.done = 0
        self.kept = 0
        """Of those done, by an earlier run: they tell nothing of how fast this one is."""
        self._figures: dict[str, Any] = {}
        self._began = self._last_line = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self.total, unit=f" {self.unit}", desc=self.label or None, file=sys.stderr)
        return self

    def advance(self, n: int = 1, **figures: Any) -> None:
        """`n` more are done; `figures` replace those shown beside the count."""
        self.done += n
        self._figures |= figures
        if self._bar is not None:
            self._bar.set_postfix(self._figures, refresh=False)
            self._bar.update(n)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._line()

    def say(self, text: str) -> None:
        """Prints a line on stderr, above the bar if there is one. OSError if the terminal or pipe is gone."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def keep(self, n: int) -> None:
        """`n` more were done by an earlier run."""
        self.done += n
        self.kept += n
        if self._bar is not None:
            self._bar.n, self._bar.initial, self._bar.last_print_n = self.done, self.kept, self._bar.last_print_n + n
            self._bar.refresh()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._line()

    def _line(self) -> None:
        if not self.log_lines:
            return
        self._last_line = time.monotonic()
        seconds = self._last_line - self._began
        rate = (self.done - self.kept) / seconds if seconds > 0 else 0.0
        parts = [f"{self.label}: " if self.label else "", f"{self.done:,} of {self.total:,} {self.unit}"]
        parts.append(f", {rate:,.1f}/s" if rate else "")
        if self.done < self.total:
            parts.append(f", {clock((self.total - self.done) / rate)} left" if rate else ", time left not known yet")
        else:
            parts.append(f", {clock(seconds)} in all")
        parts += [f", {name} {value}" for name, value in self._figures.items()]
        print("".join(parts), file=sys.stderr, flush=True)


class Silent(Progress):
    """Counts and shows nothing: for ranks beside the first."""

    def __enter__(self) -> Silent:
        return self

    def advance(self, n: int = 1, **figures: Any) -> None:
        self.done += n

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass


def clock(seconds: float) -> str:
    """1:02:03, or 2:03 under an hour."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
