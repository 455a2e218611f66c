"""What a launch would leave behind, on all of its hosts: asked to stop, or ended.

`python -m launch.deepspeed.orphans ...` is the other end of it, and light:

    MARK ask SIGNAL                      on a host: passes a signal to the ranks as long as they live
    MARK end SECONDS                     on a host: ends all, ranks have so many seconds to save; tells each on stdout
    MARK guard SECONDS [FILE] [HOST ...] beside the launch: does so everywhere if stdin ends without a word (kill -9)
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from launch.deepspeed import marked, ssh

MODULE = "launch.deepspeed.orphans"
SECONDS_TO_START = 120.0
"""How long one that asks waits for the first rank: ranks come once deepspeed, launch.py and Python have started."""
DONE = b"done"


def ask_on(hosts: Sequence[str], mark: str, number: int) -> list[subprocess.Popen[str]]:
    """Starts passing a signal to the ranks on these hosts."""
    return [ssh.start(host, MODULE, mark, "ask", str(int(number))) for host in hosts]


def end_everywhere(
    mark: str, hosts: Sequence[str], seconds: float, hurry: Callable[[], bool] = lambda: False
) -> list[str]:
    """Ends all that lives of a launch; a line for each. Other hosts first: ssh from here to them is of the launch."""
    lines = _end_on(hosts, mark, seconds, hurry)
    return lines + marked.end(mark, 0 if hurry() else seconds, hurry)


def _end_on(hosts: Sequence[str], mark: str, seconds: float, hurry: Callable[[], bool]) -> list[str]:
    running = {host: ssh.start(host, MODULE, mark, "end", str(seconds)) for host in hosts}
    while any(process.poll() is None for process in running.values()):
        if seconds and hurry():
            ssh.stop(list(running.values()))
            return _end_on(hosts, mark, 0, hurry)
        time.sleep(0.05)
    lines = []
    for host, process in running.items():
        said, wrong = process.communicate()
        lines += [f"{host}: {line}" for line in said.splitlines()]
        if process.returncode:
            why = (wrong.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
            lines.append(f"{host}: cannot see whether something is left there ({why}); ranks end by run.stall_seconds")
    return lines


def start_guard(mark: str, hosts: Sequence[str], seconds: float, remove: Path | None) -> subprocess.Popen[bytes]:
    """Starts what ends the launch if this process is killed; `release` ends it."""
    command = [sys.executable, "-m", MODULE, mark, "guard", str(seconds), str(remove or ""), *hosts]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)


def release(guard: subprocess.Popen[bytes]) -> None:
    """The launch has been ended in good order."""
    try:
        guard.communicate(DONE, timeout=10)
    except (subprocess.TimeoutExpired, OSError):
        guard.kill()
        guard.wait()


def main(arguments: Sequence[str]) -> int:
    """Exit code 0."""
    mark, what, *rest = arguments
    if what == "ask":
        _ask(mark, int(rest[0]))
    elif what == "end":
        for line in marked.end(mark, float(rest[0])):
            print(line, flush=True)
    elif sys.stdin.buffer.read() != DONE:
        if rest[1]:
            Path(rest[1]).unlink(missing_ok=True)
        end_everywhere(mark, rest[2:], float(rest[0]))
    return 0


def _ask(mark: str, number: int) -> None:
    """Until none is left, or who asked has gone."""
    asker, told, seen = os.getppid(), set[int](), False
    deadline = time.monotonic() + SECONDS_TO_START
    while os.getppid() == asker and (not seen or marked.ask(mark, number, told)):
        seen = seen or bool(marked.marked(mark))
        if not seen and time.monotonic() > deadline:
            return
        time.sleep(marked.SECONDS_A_LOOK)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
