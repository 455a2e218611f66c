"""The processes of one launch on this host, found by the mark in their environment (proc(5)), whoever their parents
are now. Nothing else is ever signalled."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "SLAM_ASR_LAUNCH"
"""Its value is the mark: random, another one for every launch."""
SECONDS_A_LOOK = 0.2
SECONDS_FOR_LAUNCHERS = 5.0
"""deepspeed's launch.py looks at its ranks once a second, then it ends."""


@dataclass(frozen=True)
class Process:
    """A living process of a launch."""

    pid: int
    rank: str
    """Its number among all ranks; "" for what is none: deepspeed, launch.py, pdsh, ssh, or a rank's own child."""

    def __str__(self) -> str:
        return f"pid {self.pid}" + (f" (rank {self.rank})" if self.rank else "")


def marked(mark: str) -> list[Process]:
    """Who lives and carries the mark, by pid."""
    ranks = dict(_carriers(mark))
    return [Process(pid, "" if ranks.get(_parent(pid)) else rank) for pid, rank in sorted(ranks.items())]


def ask(mark: str, number: int, told: set[int]) -> list[Process]:
    """Sends a signal to the ranks that are not `told` yet and would not die of it; returns all that live.

    A rank has its handlers before it imports anything heavy; launch.py, sent a SIGTERM, would end the ranks one after
    the other.
    """
    living = marked(mark)
    for process in living:
        if process.rank and process.pid not in told and _catches(process.pid):
            told.add(process.pid)
            _send(process.pid, number)
    return living


def end(mark: str, seconds: float, hurry: Callable[[], bool] = lambda: False) -> list[str]:
    """Ends all that lives: ranks are asked and have `seconds` to save; what is left then is killed.

    Returns a line for each that was still there. `hurry` cuts the waiting short.
    """
    told: set[int] = set()
    seen: dict[int, Process] = {}
    started = ranks_at = time.monotonic()
    while living := ask(mark, signal.SIGTERM, told):
        seen |= {process.pid: process for process in living}
        now = time.monotonic()
        if any(process.rank for process in living):
            ranks_at = now
        if now - started >= seconds or now - ranks_at >= SECONDS_FOR_LAUNCHERS or hurry():
            break
        time.sleep(SECONDS_A_LOOK)
    killed = _kill(mark)
    return [
        f"{process} was left: {'killed' if process.pid in killed else 'it has ended'}"
        for process in seen.values()
        if process.rank or process.pid in killed
    ]


def _kill(mark: str) -> set[int]:
    """Kills until none is left: one may have been starting another."""
    killed: set[int] = set()
    deadline = time.monotonic() + SECONDS_FOR_LAUNCHERS
    while (living := marked(mark)) and time.monotonic() < deadline:
        for process in living:
            _send(process.pid, signal.SIGKILL)
            killed.add(process.pid)
        time.sleep(0.02)
    return killed


def _carriers(mark: str) -> Iterator[tuple[int, str]]:
    """(pid, RANK) of each process with the mark; a dead one has no environment any more."""
    wanted = f"{VARIABLE}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # another user's, or gone meanwhile
            variables = (folder / "environ").read_bytes().split(b"\0")
            if wanted in variables and int(folder.name) != os.getpid():
                rank = next((variable for variable in variables if variable.startswith(b"RANK=")), b"RANK=")
                yield int(folder.name), rank[len(b"RANK=") :].decode(errors="replace")


def _parent(pid: int) -> int:
    with suppress(OSError):
        after_name = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return int(after_name[1])
    return 0


def _catches(pid: int) -> bool:
    """Whether the process has a handler for SIGUSR1, which Python by itself has none for."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1)
    return False


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
