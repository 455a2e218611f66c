"""Requests to stop: a signal, or the launcher's end, sets a flag that all ranks agree on at the next step.

Without torch, as the handlers are installed before that is imported: a signal during the imports would otherwise kill.
"""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

from model.errors import UserError
from train.dist.launch_env import FROM_LAUNCHER, read_rank_env
from train.liveness.exit_status import LAUNCHER_GONE

_asked_at = 0.0
_reason = ""
_local_rank: int | None = None

SECONDS_TO_INSIST = 2.0  # a launcher passes one Ctrl-C on several times; only one that comes later is a second one
POLL_SECONDS = 0.1
SHELLS = {"sh", "bash", "dash", "zsh", "ksh"}


def install_handlers() -> None:
    """From now on SIGTERM, SIGUSR1 and SIGINT only set the flag; a second, later SIGINT raises KeyboardInterrupt."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, _on_signal)


def _on_signal(number: int, frame: object) -> None:
    if number == signal.SIGINT and _asked_at and time.monotonic() - _asked_at > SECONDS_TO_INSIST:
        raise KeyboardInterrupt
    ask(signal.Signals(number).name)


def ask(reason: str) -> None:
    """Asks this run to stop after the step it is in, from any thread; the first reason is kept. The first rank of each
    host prints it at once, as the step may take a while."""
    global _asked_at, _reason
    if _asked_at:
        return
    _reason, _asked_at = reason, time.monotonic()
    if (os.environ.get("LOCAL_RANK", "0") if _local_rank is None else str(_local_rank)) == "0":
        with contextlib.suppress(OSError):  # the reader of stderr may have gone with the launcher
            os.write(2, f"train: {reason}: saving and leaving after this step; Ctrl-C again leaves at once\n".encode())


def set_local_rank(local_rank: int) -> None:
    """This rank's number on its host, once known; until then LOCAL_RANK counts, which join_world may set to another."""
    global _local_rank
    _local_rank = local_rank


def asked() -> bool:
    """Whether this rank has been asked to stop."""
    return _asked_at > 0


def reason() -> str:
    """The name of a signal ("SIGTERM"), or what was given to `ask`; "" if not asked."""
    return _reason


def follow_launcher() -> None:
    """From now on the launcher's end, by kill -9 perhaps, asks this rank to stop, so that it does not outlive it.

    A thread looks at the parents of this process. `deepspeed` itself is the parent's parent: killed, it leaves its own
    child, the module deepspeed.launcher.launch, training on, so that one's parents are watched too. A plain
    `python -m train` has no launcher: its shell may end (nohup, disown)."""
    try:
        if not read_rank_env().launcher:
            return
    except UserError:  # a launcher's variables, but wrong: reported when the run joins its ranks
        pass
    parents = _parents()
    if _orphaned(parents[0]) or (len(parents) == 2 and _orphaned(parents[1])):  # gone before this process looked
        ask(LAUNCHER_GONE)
    else:
        threading.Thread(target=_watch, args=(parents,), name="lifeline", daemon=True).start()


def _watch(parents: list[int]) -> None:
    while _parents() == parents:
        time.sleep(POLL_SECONDS)
    ask(LAUNCHER_GONE)


def _parents() -> list[int]:
    """This process's parent and, where that is deepspeed.launcher.launch, its own: the first that is no shell, after
    the shells between (a remote shell outlives its connection)."""
    parents = [os.getppid()]
    command = _read(parents[0], "cmdline").replace("\0", " ")
    if "deepspeed.launcher.launch" in command or "deepspeed/launcher/launch.py" in command:
        parents.append(_parent(parents[0]))
        while _read(parents[-1], "comm").strip() in SHELLS:
            parents.append(_parent(parents[-1]))
    return parents


def _orphaned(parent: int) -> bool:
    """Whether a process that a launcher started is init's child by now. A container's first process may itself be the
    launcher, which runs in Python."""
    inherited = parent == 1 or _read(parent, "comm").strip() == "systemd"
    return inherited and any(name in os.environ for name in FROM_LAUNCHER) and "python" not in _read(parent, "cmdline")


def _parent(pid: int) -> int:
    """The parent of a process; 0 if there is none or the process is gone."""
    after_name = _read(pid, "stat").rpartition(")")[2].split()
    return int(after_name[1]) if len(after_name) > 1 else 0


def _read(pid: int, name: str) -> str:
    """A file of /proc/PID (proc(5)); "" if the process is gone, or elsewhere than on Linux."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""
