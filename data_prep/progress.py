"""How far a long job is, on stderr: a bar (tqdm) on a terminal, a plain line now and then in a log."""

import sys
import time
from typing import Any

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts to `total`. `with Progress(n, label="build") as progress: progress.advance(1, hours=0.3)`. `log_lines`:
    whether to print lines of its own where there is no terminal."""

    shown = True

    def __init__(self, total: int, unit: str = "utterances", label: str = "", log_lines: bool = True) -> None:
        self.total, self.unit, self.label, self.log_lines = total, unit, label, log_lines
        self.done = self.kept = 0  # all that is done; of it, by an earlier run
        self._figures: dict[str, Any] = {}
        self._said: tuple[int, dict[str, Any]] | None = None  # by the last line: how many are done, and the figures
        self._began = self._last_line = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if self.shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self.total, initial=self.done, unit=f" {self.unit}", desc=self.label or None)
        return self

    def advance(self, n: int = 1, **figures: Any) -> None:
        """`n` more are done; `figures` replace those shown beside the count."""
        self.done += n
        self._figures |= figures
        if self._bar is not None:
            self._bar.set_postfix(self._figures, refresh=False)
            self._bar.update(n)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._print_line()

    def keep(self, n: int) -> None:
        """`n` more were done by an earlier run."""
        self.done += n
        self.kept += n
        if self._bar is not None:
            self._bar.n, self._bar.initial, self._bar.last_print_n = self.done, self.kept, self._bar.last_print_n + n
            self._bar.refresh()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None and (self.done < self.total or self._said != (self.done, self._figures)):
            self._print_line()

    def say(self, text: str) -> None:
        """Prints a line on stderr, above the bar if there is one. OSError if the terminal or pipe is gone."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def _print_line(self) -> None:
        if not self.shown or not self.log_lines:
            return
        self._last_line, self._said = time.monotonic(), (self.done, dict(self._figures))
        seconds = self._last_line - self._began
        rate = (self.done - self.kept) / seconds if seconds > 0 else 0.0
        parts = [f"{self.label}: " * bool(self.label) + f"{self.done:,} of {self.total:,} {self.unit}"]
        parts += [f"{rate:,.1f}/s"] if rate else []
        if self.done >= self.total:
            parts.append(f"{clock(seconds)} in all")
        else:
            parts.append(f"{clock((self.total - self.done) / rate)} left" if rate else "time left not known yet")
        self.say(", ".join(parts + [f"{name} {value}" for name, value in self._figures.items()]))


class Silent(Progress):
    """Counts and shows nothing: for ranks beside the first."""

    shown = False


def clock(seconds: float) -> str:
    """1:02:03, or 2:03 under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
