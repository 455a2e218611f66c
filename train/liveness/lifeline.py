"""Asks the run to stop when its launcher is gone, killed -9 perhaps, so that no rank outlives it: it saves and ends.

A thread looks at the parents of this process ten times a second. `deepspeed` itself is the parent's parent: killed, it
leaves its own child, the module deepspeed.launcher.launch, training on, so that one's parents are watched too. Without
torch, as it is called before that is imported.
"""

import os
import threading
import time
from pathlib import Path

from model.errors import UserError
from train.dist.launch_env import FROM_LAUNCHER, read_rank_env
from train.liveness import stop
from train.liveness.exit_status import LAUNCHER_GONE

POLL_SECONDS = 0.1
_SHELLS = {"sh", "bash", "dash", "zsh", "ksh"}


def follow_launcher() -> None:
    """From now on the end of the launcher asks this process to stop; nothing changes where there is no launcher.

    After stop.install_handlers. A plain `python -m train` has no launcher: its shell may end (nohup, disown).
    """
    try:
        if not read_rank_env().launcher:
            return
    except UserError:  # a launcher's variables, but wrong: reported when the run joins its ranks
        pass
    parents = _parents()
    if _orphaned(parents[0]) or (len(parents) == 2 and _orphaned(parents[1])):  # gone before this process looked
        stop.ask(LAUNCHER_GONE)
    else:
        threading.Thread(target=_watch, args=(parents,), name="lifeline", daemon=True).start()


def _watch(parents: list[int]) -> None:
    while _parents() == parents:
        time.sleep(POLL_SECONDS)
    stop.ask(LAUNCHER_GONE)


def _parents() -> list[int]:
    """This process's parent and, where that is deepspeed.launcher.launch, its own: the first that is no shell, after
    the shells between (a remote shell outlives its connection)."""
    parents = [os.getppid()]
    command = _read(parents[0], "cmdline").replace("\0", " ")
    if "deepspeed.launcher.launch" in command or "deepspeed/launcher/launch.py" in command:
        parents.append(_parent(parents[0]))
        while _read(parents[-1], "comm").strip() in _SHELLS:
            parents.append(_parent(parents[-1]))
    return parents


def _orphaned(parent: int) -> bool:
    """Whether a process that a launcher started is init's child by now.

    A container's first process may itself be the launcher, which runs in Python.
    """
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
