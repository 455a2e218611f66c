"""Runs a stage's command; signals are passed on to it, and it does not outlive this process."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from model.errors import UserError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_PR_SET_PDEATHSIG = 1


class Running:
    """Runs one command after another, and keeps the first signal that asked to stop."""

    def __init__(self) -> None:
        self.signal = 0
        """Its number; 0 if none has come."""
        self._process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def passing_on_signals(self) -> Iterator[None]:
        """Within it, signals to this process go to the command."""
        before = [(number, signal.signal(number, self._on_signal)) for number in SIGNALS]
        try:
            yield
        finally:
            for number, handler in before:
                signal.signal(number, handler)

    def __call__(self, words: Sequence[str]) -> int:
        """Runs the command to its end; its exit code, or 128 and the number of the signal that ended it."""
        before = self.signal
        self._process = subprocess.Popen(
            [program(words[0]), *words[1:]],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches it once: from us
            preexec_fn=_end_with(os.getpid()),
        )
        if self.signal != before:  # it came between the two lines above
            self._process.send_signal(self.signal)
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    def _on_signal(self, number: int, frame: object) -> None:
        self.signal = self.signal or number
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


def program(name: str) -> str:
    """The file of a command, first looked for beside our Python. UserError if there is none."""
    if name == "python":
        return sys.executable
    beside = Path(sys.executable).parent / name
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        raise UserError(f"there is no {name} beside {sys.executable}; install this project with that Python's pip")
    return path


def _end_with(parent: int) -> Callable[[], None] | None:
    """For the child, before it becomes the command: the kernel is to send it SIGTERM when this process dies (prctl(2)).

    A training saves then. Nothing on systems other than Linux.
    """
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None, use_errno=True)

    def before_exec() -> None:
        library.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # it died before prctl
            os._exit(128 + signal.SIGTERM)

    return before_exec
