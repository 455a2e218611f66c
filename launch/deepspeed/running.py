"""Runs `deepspeed` to its end, passes a stop request on to the ranks, and leaves no process behind.

The ranks watch what has started them (train/liveness/stop.py): when that ends, on any host, they save and leave.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from launch.deepspeed import ssh
from launch.deepspeed.outcome import LOCK, markers, outcome, written_since
from train.dist.lock import holder
from train.liveness import stop

SECONDS_TO_SAVE = 60.0
"""For ranks whose launcher has ended to write a checkpoint and leave."""
SECONDS_A_LOOK = 0.2


@dataclass(frozen=True)
class Launch:
    """A `deepspeed` command."""

    command: list[str]
    run: Path
    environment: Mapping[str, str]
    ssh_host: str = ""
    """Where rank 0 is; "" if the command starts ranks of this host alone."""
    exports: Path | None = None
    """A file for the other hosts, removed at the end."""
    node_rank: int = 0


def carry_out(launch: Launch, dry_run: bool) -> int:
    """Prints the command, runs it to its end, which is reported in one line, and returns the exit code."""
    print(shlex.join(launch.command), flush=True)
    if dry_run:
        return 0
    before, passed_on = markers(launch.run), False
    stop.install_handlers()
    runner = subprocess.Popen(launch.command, env=launch.environment, stdin=subprocess.DEVNULL, start_new_session=True)
    guard = _start_guard(launch, runner.pid)
    try:
        while runner.poll() is None:
            if stop.asked() and not passed_on and LOCK in written_since(before, launch.run):
                passed_on = _pass_on(launch, runner.pid, signal.Signals[stop.reason()])
            time.sleep(SECONDS_A_LOOK)
        deadline = time.monotonic() + SECONDS_TO_SAVE
        while holder(launch.run) and time.monotonic() < deadline:
            time.sleep(SECONDS_A_LOOK)
    except KeyboardInterrupt:  # a second Ctrl-C
        _kill(runner.pid, *_descendants(runner.pid))
        raise
    _kill(guard)
    if launch.exports:
        launch.exports.unlink(missing_ok=True)
    code, line = outcome(launch.run, before, runner.returncode, launch.node_rank)
    print(f"launch: {line}", file=sys.stderr, flush=True)
    return code


def _pass_on(launch: Launch, runner: int, number: int) -> bool:
    """Sends a signal to the ranks of this host, or to rank 0 by ssh; False if that is to be tried again.

    All ranks agree to stop after the same step. Once rank 0 has written LOCK, all have their handlers. deepspeed's own
    processes would answer the signal by killing the ranks.
    """
    if not launch.ssh_host:
        _kill(*(rank for launcher in _children(runner) for rank in _children(launcher)), number=number)
        return True
    rank_0 = re.search(r"\d+", (launch.run / LOCK).read_text(errors="replace"))
    if rank_0 is None:  # it is being written
        return False
    if wrong := ssh.reach(launch.ssh_host, command=f"kill -{number} {rank_0[0]}"):
        print(f"launch: cannot ask the ranks to stop: {wrong}", file=sys.stderr, flush=True)
    return True


def _start_guard(launch: Launch, runner: int) -> int:
    """Starts a process that ends the launcher when this one has ended, be it by kill -9; returns its number.

    Over ssh it ends pdsh and the connections too, which outlive `deepspeed`.
    """
    ended, held_open = os.pipe()
    if guard := os.fork():
        os.close(ended)
        return guard
    try:
        os.setsid()  # out of the reach of Ctrl-C
        os.close(held_open)
        os.read(ended, 1)
        _kill(runner, *(_descendants(runner) if launch.ssh_host else ()))
        if launch.exports:
            launch.exports.unlink(missing_ok=True)
    finally:
        os._exit(0)


def _descendants(pid: int) -> list[int]:
    return [process for child in _children(pid) for process in (child, *_descendants(child))]


def _children(pid: int) -> list[int]:
    with suppress(OSError):  # it has ended
        lists = [(thread / "children").read_text() for thread in Path(f"/proc/{pid}/task").iterdir()]
        return [int(word) for text in lists for word in text.split()]
    return []


def _kill(*pids: int, number: int = signal.SIGKILL) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
