"""Other hosts by ssh: whether they can be reached, how soon a dead connection is noticed, and commands that run there.

A connection whose host has gone ends only by keep-alives: without, `deepspeed` waits for it for ever.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence

SECONDS_TO_CONNECT = 5
APPEND = "PDSH_SSH_ARGS_APPEND"
"""What pdsh adds to its ssh's command line (pdsh(1))."""
NEVER_ASK = ["-o", "BatchMode=yes"]


def reach(host: str, seconds: float = 10) -> str:
    """What is wrong with reaching `host` by ssh without a password; "" if nothing is."""
    connect = ["-o", f"ConnectTimeout={max(1, round(seconds))}"]
    command = ["ssh", *given(), *NEVER_ASK, *connect, host, "true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=seconds + 1)
    except FileNotFoundError:
        return "there is no ssh here; install openssh-client"
    except subprocess.TimeoutExpired:
        return f"{host} gives no answer in {seconds:g} s; see whether it is up and ssh's port is open"
    if done.returncode == 0:
        return ""
    said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return f"ssh {host} without a password fails: {said}; `ssh-copy-id {host}` may help"


def keepalive_seconds(host: str) -> int | None:
    """After how many seconds without an answer ssh gives up a connection to `host`; None: never.

    As ~/.ssh/config has it; `slam-asr launch hostfile` gives its own where that has none.
    """
    settings = settings_of(host)
    interval, count = (int(settings.get(name, "0")) for name in ("serveraliveinterval", "serveralivecountmax"))
    return interval * (count + 1) if interval and count else None


def settings_of(host: str) -> dict[str, str]:
    """What ssh would do for `host` (`ssh -G`), by lower-case name; empty if there is no ssh."""
    try:
        said = subprocess.run(["ssh", "-G", "--", host], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    lines = [line.partition(" ") for line in said.stdout.splitlines()]
    return {name: value for name, _, value in lines}


def known(host: str) -> bool:
    """Whether `host` has an address, be it under the name that ~/.ssh/config gives it; those behind a proxy have."""
    settings = settings_of(host)
    behind = any(settings.get(name, "none") != "none" for name in ("proxyjump", "proxycommand"))
    return behind or resolves(settings.get("hostname", host))


def resolves(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):
        return False


def is_here(host: str) -> bool:
    """Whether `host` names this one: by name, or by an address of ours."""
    if host in ("localhost", socket.gethostname()):
        return True
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return any(_is_own(str(address)) for address in addresses)


def _is_own(address: str) -> bool:
    """One can only listen on an address of one's own."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True


def keep_alive(seconds: int) -> list[str]:
    """ssh's options that give a dead connection up after `seconds`, or little less."""
    interval = min(15, max(1, seconds // 4))
    count = max(1, seconds // interval - 1)
    return ["-o", f"ServerAliveInterval={interval}", "-o", f"ServerAliveCountMax={count}"]


def for_pdsh(seconds: int) -> str:
    """PDSH_SSH_ARGS_APPEND: what is there already, which counts first, then keep-alives, and never a question."""
    return " ".join([*os.environ.get(APPEND, "").split(), *keep_alive(seconds), *NEVER_ASK])


def given() -> list[str]:
    """The options that the person gave for pdsh's ssh, such as `-p 2222`: they are right for ours too."""
    return os.environ.get(APPEND, "").split()


def start(host: str, module: str, *arguments: str) -> subprocess.Popen[str]:
    """Starts `python -m MODULE` on a host, in this folder and by the Python that this is, as deepspeed does."""
    words = [sys.executable, "-m", module, *arguments]
    remote = f"cd {shlex.quote(os.getcwd())} && exec {shlex.join(words)}"
    options = [*NEVER_ASK, "-o", f"ConnectTimeout={SECONDS_TO_CONNECT}", *keep_alive(4 * SECONDS_TO_CONNECT)]
    return subprocess.Popen(
        ["ssh", *given(), *options, host, remote],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is ours alone
    )


def stop(running: Sequence[subprocess.Popen[str]]) -> None:
    """Ends our side of what `start` has started."""
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()
