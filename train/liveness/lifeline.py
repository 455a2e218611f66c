"""No rank outlives its launcher: when that is gone, killed -9 perhaps, the run is asked to stop, so it saves and ends.

Without torch, as it is called before that is imported. The kernel tells a rank that its parent has died
(prctl(2), PR_SET_PDEATHSIG). `deepspeed` itself is the parent's parent: killed, it leaves its own child, the module
deepspeed.launcher.launch, training on, so the line of parents is watched there too. Linux only; elsewhere nothing
happens.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

from model.errors import UserError
from train.dist.launch_env import FROM_LAUNCHER, find_place
from train.liveness import stop
from train.liveness.exit_status import LAUNCHER_GONE

SECONDS_A_LOOK = 1.0
_PR_SET_PDEATHSIG = 1
_SHELLS = {"sh", "bash", "dash", "zsh", "ksh"}


def follow_launcher() -> None:
    """From now on the end of the launcher asks this process to stop; nothing changes where there is no launcher.

    After stop.install_handlers, from the main thread. A plain `python -m train` has no launcher: its shell may end
    (nohup, disown).
    """
    if not sys.platform.startswith("linux") or not _launched():
        return
    parent = os.getppid()
    _ask_kernel(parent)
    if os.getppid() != parent or _adopted(parent):  # it went before the kernel was asked
        stop.ask(LAUNCHER_GONE)
    elif _is_deepspeed_launch(parent):
        line = _line(parent)
        if len(line) == 1 and _adopted(line[0]):  # `deepspeed` went while its child was starting
            stop.ask(LAUNCHER_GONE)
        threading.Thread(target=_watch, args=(parent, line), name="lifeline", daemon=True).start()


def _launched() -> bool:
    try:
        return bool(find_place().launcher)
    except UserError:  # a launcher's variables, not all right: that is said when the run is joined
        return True


def _ask_kernel(parent: int) -> None:
    """A signal of our own, as the kernel also sends it when only the parent's thread that started us has ended; then
    the parent is still the same, and a SIGTERM could not be told from a real one."""
    number = signal.SIGRTMIN + 7

    def on_death(number: int, frame: object) -> None:
        if os.getppid() != parent:
            stop.ask(LAUNCHER_GONE)

    signal.signal(number, on_death)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def _adopted(parent: int) -> bool:
    """Whether init has this process already: a launcher started it, and its parent is none.

    A container's first process may itself be the launcher, which runs in Python.
    """
    inherited = parent == 1 or _name(parent) == "systemd"
    return inherited and any(name in os.environ for name in FROM_LAUNCHER) and "python" not in _command(parent)


def _is_deepspeed_launch(pid: int) -> bool:
    command = _command(pid)
    return "deepspeed.launcher.launch" in command or "deepspeed/launcher/launch.py" in command


def _line(pid: int) -> list[int]:
    """The parents of process `pid`: the first, and those of shells between (a remote one, which outlives its
    connection)."""
    line = [_parent(pid)]
    while _name(line[-1]) in _SHELLS:
        line.append(_parent(line[-1]))
    return line


def _watch(parent: int, line: list[int]) -> None:
    while _line(parent) == line:
        time.sleep(SECONDS_A_LOOK)
    stop.ask(LAUNCHER_GONE)


def _parent(pid: int) -> int:
    """The parent of a process, from proc(5); 0 if there is none or the process is gone."""
    after_name = _read(pid, "stat").rpartition(")")[2].split()
    return int(after_name[1]) if len(after_name) > 1 else 0


def _name(pid: int) -> str:
    return _read(pid, "comm").strip()


def _command(pid: int) -> str:
    return _read(pid, "cmdline").replace("\0", " ")


def _read(pid: int, what: str) -> str:
    try:
        return Path(f"/proc/{pid}/{what}").read_text(errors="replace")
    except OSError:
        return ""
