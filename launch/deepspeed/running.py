"""Runs `deepspeed` to its end, passes a stop request on to the ranks, and leaves no process behind.

The markers in the run's folder tell how it ended, as deepspeed's exit code is 0 when its own child is killed. The ranks
watch their launcher (train/liveness/stop.py): when that ends, on any host, they save and leave."""

import argparse
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from launch.deepspeed import ssh
from launch.stages import program
from model.errors import UserError
from train.dist.lock import holder
from train.liveness import stop
from train.liveness.exit_status import AGAIN, FINISHED, LAUNCHER_GONE, MISTAKE, STOPPED

if TYPE_CHECKING:
    from train.recipe.config import Config

LOCK = "LOCK"  # rank 0 writes its process number into it at every start
SECONDS_TO_SAVE = 60.0  # for ranks whose launcher has ended to write a checkpoint and leave
SECONDS_TO_APPEAR = 3.0  # for a marker that another host has written, on a network file system
SECONDS_A_LOOK = 0.2
OF_A_RANK = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE", "MASTER_ADDR", "MASTER_PORT"}
"""Inherited from a launcher that started this process, they would make `deepspeed` itself look like a rank."""
Markers = Mapping[str, tuple[int, int]]  # inode and time of each marker that is there


@dataclass(frozen=True)
class Launch:
    """A `deepspeed` command; its environment is this one, with changes."""

    command: list[str]
    run: Path
    added: Mapping[str, str] = field(default_factory=dict)
    removed: Set[str] = frozenset()
    ssh_host: str = ""  # where rank 0 is; "" if the command starts ranks of this host alone
    node_rank: int = 0

    def env(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if name not in OF_A_RANK | self.removed}
        return ours | dict(self.added)


def command(args: argparse.Namespace, config: "Config", options: Sequence[str]) -> list[str]:
    """Writes RUN/launch/recipe.yaml, as overrides may not survive a remote shell, and returns the command."""
    from train.recipe.identity import to_yaml
    from train.run_folder import write_file

    deepspeed, file = program("deepspeed"), Path(config.run.dir) / "launch" / "recipe.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, to_yaml(config).encode())
    changes = ["--allow-changes"] if args.allow_changes else []
    training = ["--no_local_rank", "--module", "train", str(file), "--deepspeed", args.deepspeed, *changes]
    return [deepspeed, *options, "--master_port", str(args.master_port or _free_port()), *training]


def _free_port() -> int:
    """A free port of this host: below torch's default, 29500, and those that Linux gives to outgoing connections."""
    for _ in range(100):
        number = random.SystemRandom().randrange(20000, 29500)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("", number))
            return number
    raise UserError("no free port from 20000 to 29500 found; give --master-port")


def carry_out(launch: Launch, dry_run: bool) -> int:
    """Prints the command, runs it to its end, which is reported in one line, and returns the exit code."""
    print(shlex.join(launch.command), flush=True)
    if dry_run:
        return 0
    before, passed_on = markers(launch.run), False
    stop.install_handlers()
    runner = subprocess.Popen(launch.command, env=launch.env(), stdin=subprocess.DEVNULL, start_new_session=True)
    guard = _start_guard(launch, runner.pid)
    try:
        while runner.poll() is None:
            if stop.asked() and not passed_on and LOCK in markers(launch.run, before):
                passed_on = _pass_on(launch, runner.pid, signal.Signals[stop.reason()])
            time.sleep(SECONDS_A_LOOK)
        deadline = time.monotonic() + SECONDS_TO_SAVE
        while holder(launch.run) and time.monotonic() < deadline:
            time.sleep(SECONDS_A_LOOK)
    except KeyboardInterrupt:  # a second Ctrl-C
        _kill(runner.pid, *_descendants(runner.pid))
        raise
    _kill(guard)
    (launch.run / ssh.EXPORTS).unlink(missing_ok=True)
    code, line = outcome(launch.run, before, runner.returncode, launch.node_rank)
    print(f"launch: {line}", file=sys.stderr, flush=True)
    return code


def _pass_on(launch: Launch, runner: int, number: int) -> bool:
    """Sends a signal to the ranks of this host, or to rank 0 by ssh; False if that is to be tried again.

    All ranks agree to stop after the same step. Once rank 0 has written LOCK, all have their handlers. deepspeed's own
    processes would answer the signal by killing the ranks."""
    if not launch.ssh_host:
        _kill(*(rank for launcher in _children(runner) for rank in _children(launcher)), number=number)
    elif not (rank_0 := re.search(r"\d+", (launch.run / LOCK).read_text(errors="replace"))):
        return False  # it is being written
    elif wrong := ssh.reach(launch.ssh_host, command=f"kill -{number} {rank_0[0]}"):
        print(f"launch: cannot ask the ranks to stop: {wrong}", file=sys.stderr, flush=True)
    return True


def _start_guard(launch: Launch, runner: int) -> int:
    """Starts a process that ends the launcher when this one has ended, be it by kill -9; returns its number. Over ssh
    it ends pdsh and the connections too, which outlive `deepspeed`."""
    ended, held_open = os.pipe()
    if guard := os.fork():
        os.close(ended)
        return guard
    try:
        os.setsid()  # out of the reach of Ctrl-C
        os.close(held_open)
        os.read(ended, 1)
        _kill(runner, *(_descendants(runner) if launch.ssh_host else ()))
        (launch.run / ssh.EXPORTS).unlink(missing_ok=True)
    finally:
        os._exit(0)


def _descendants(pid: int) -> list[int]:
    return [process for child in _children(pid) for process in (child, *_descendants(child))]


def _children(pid: int) -> list[int]:
    with suppress(OSError):  # it has ended
        return [int(word) for file in Path(f"/proc/{pid}/task").glob("*/children") for word in file.read_text().split()]
    return []


def _kill(*pids: int, number: int = signal.SIGKILL) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def markers(run: Path, before: Markers = MappingProxyType({})) -> Markers:
    """The markers that are there, without those that are as in `before`."""
    with suppress(OSError), os.scandir(run) as entries:  # listing makes a network file system look again
        files = [entry for entry in entries if entry.name in (FINISHED, STOPPED, LOCK)]
        states = {entry.name: (entry.inode(), entry.stat().st_mtime_ns) for entry in files}
        return {name: state for name, state in states.items() if state != before.get(name)}
    return {}


def outcome(run: Path, before: Markers, code: int, node_rank: int = 0) -> tuple[int, str]:
    """(exit code, one line), from the markers before and deepspeed's exit code (negative: the signal that ended it)."""
    deadline = time.monotonic() + (SECONDS_TO_APPEAR if code == 0 else 0)
    while not {FINISHED, STOPPED} & (written := markers(run, before)).keys() and time.monotonic() < deadline:
        time.sleep(SECONDS_A_LOOK)
    failure = code if code > 0 and code != AGAIN else 1  # ranks that have stopped exit with AGAIN
    if FINISHED in written:
        return 0, f"finished: {run / 'checkpoints'}"
    if STOPPED in written:
        step, _, reason = (run / STOPPED).read_text().strip().partition(" ")
        resumes = f"after step {step}; the same command resumes"
        if reason != LAUNCHER_GONE:
            return AGAIN, f"stopped as asked ({reason}) {resumes}"
        return (
            failure,
            f"{LAUNCHER_GONE}: killed, by hand or for memory (see dmesg); the ranks saved and left {resumes}",
        )
    if code == MISTAKE:
        return MISTAKE, "refused, as explained above; nothing was trained"
    if code == AGAIN:
        return AGAIN, "stopped as asked, or by its watchdog, as explained above; the same command resumes"
    if node_rank and code == 0 and LOCK not in written:
        return 0, f"ended without an error; {run} is not the folder of node rank 0: look for {FINISHED} there"
    ended = f"exit code {code}" if code >= 0 else f"ended by signal {-code}"
    todo = "mend the first error above; the same command resumes from the newest checkpoint"
    return failure, f"failed: there is no new {FINISHED} in {run} (deepspeed: {ended}); {todo}"
