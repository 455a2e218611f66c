"""A launch under way: `deepspeed` in a session of its own, followed to its end, and nothing of it left then."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex

from launch.deepspeed import marked, orphans, ssh
from launch.deepspeed.outcome import AGAIN, Markers, outcome

SECONDS_TO_SAVE = 60.0
"""For ranks that outlive their launcher, to write a checkpoint and leave; then they are killed."""
SECONDS_TO_INSIST = 2.0
"""A Ctrl-C this long after the first wish to stop is a second one."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
OF_A_RANK = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE", "MASTER_ADDR", "MASTER_PORT"}
"""What deepspeed sets for its ranks: inherited from a launcher above us, it would make deepspeed itself look like one.
"""


@dataclass(frozen=True)
class Launch:
    """What is started, where, and as what it is known."""

    command: list[str]
    mark: str
    run: Path
    sets: Mapping[str, str]
    """The environment it has besides ours."""
    unsets: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    """Where its ranks are, by ssh; none: here."""
    secrets: Path | None = None
    """A file that is removed at the end."""
    hidden: tuple[str, ...] = ()
    """Names whose values are not shown."""
    node_rank: int = 0


@dataclass
class Wishes:
    """What signals have asked of us."""

    number: int = 0
    at: float = 0.0
    insisted: bool = False

    def on_signal(self, number: int, frame: object) -> None:
        if not self.number:
            self.number, self.at = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self.at > SECONDS_TO_INSIST:
            self.insisted = True


@dataclass
class Asking:
    """Passing the wish to stop on to the ranks."""

    launch: Launch
    told: set[int] = field(default_factory=set)
    said: bool = False
    remote: list[subprocess.Popen[str]] | None = None

    def __call__(self, number: int) -> None:
        if not self.said:
            self.said = True
            _say(f"{signal.Signals(number).name}: asking the ranks to save and leave; Ctrl-C again ends them at once")
        if not self.launch.hosts:
            marked.ask(self.launch.mark, number, self.told)
        elif self.remote is None:
            self.remote = orphans.ask_on(self.launch.hosts, self.launch.mark, number)


def new_mark() -> str:
    return token_hex(8)


def show(launch: Launch) -> None:
    """The command with the environment it sets, to be read or pasted; what is secret stays a variable."""
    values = {
        name: f'"${name}"' if name in launch.hidden else shlex.quote(value) for name, value in launch.sets.items()
    }
    words = [*(f"-u {name}" for name in launch.unsets), *(f"{name}={value}" for name, value in values.items())]
    print(" ".join(["env", *words, shlex.join(launch.command)]), flush=True)


def carry_out(launch: Launch) -> int:
    """Runs it to its end, which it says in one line; the exit code."""
    before, wishes = Markers.of(launch.run), Wishes()
    guard = orphans.start_guard(launch.mark, launch.hosts, SECONDS_TO_SAVE, launch.secrets)
    with _signals(wishes):
        try:
            code = _follow(launch, wishes)
            seconds = 0.0 if wishes.insisted else SECONDS_TO_SAVE
            left = orphans.end_everywhere(launch.mark, launch.hosts, seconds, lambda: wishes.insisted)
        finally:
            if launch.secrets:
                launch.secrets.unlink(missing_ok=True)
        orphans.release(guard)
    for line in left:
        _say(line)
    if wishes.insisted:
        _say("ended at once, as asked twice; the same command goes on from the newest checkpoint")
        return 128 + signal.SIGINT
    result, line = outcome(launch.run, before, code, bool(left), launch.node_rank)
    _say(line)
    return result


def _follow(launch: Launch, wishes: Wishes) -> int:
    """Starts `deepspeed` and returns its exit code; what is asked meanwhile goes to the ranks."""
    without = {*OF_A_RANK, *launch.unsets}
    environment = {name: value for name, value in os.environ.items() if name not in without} | dict(launch.sets)
    runner = subprocess.Popen(launch.command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    asking = Asking(launch)
    try:
        while runner.poll() is None and not wishes.insisted:
            if wishes.number:
                asking(wishes.number)
            time.sleep(marked.SECONDS_A_LOOK)
        return AGAIN if wishes.insisted else runner.wait()
    finally:
        ssh.stop(asking.remote or ())
        if runner.poll() is None:  # a SIGTERM would have it pkill every launch.py of ours on its hosts
            runner.kill()
            runner.wait()


@contextmanager
def _signals(wishes: Wishes) -> Iterator[None]:
    before = [(number, signal.signal(number, wishes.on_signal)) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _say(line: str) -> None:
    print("launch:", line, file=sys.stderr, flush=True)
