"""Commands on other hosts by ssh, and how soon a dead connection is noticed.

Without keep-alives a connection to a host that has gone never ends, and neither does `deepspeed`, which waits for it.
"""

import os
import socket
import subprocess

APPEND = "PDSH_SSH_ARGS_APPEND"
"""Options that pdsh adds to its ssh (pdsh(1)), such as `-p 2222`: they hold for our own ssh too."""


def reach(host: str, seconds: float = 10, command: str = "true") -> str:
    """Runs a command on `host` by ssh without a password; what is wrong, or "" if it succeeds."""
    options = [*os.environ.get(APPEND, "").split(), "-o", "BatchMode=yes", "-o", f"ConnectTimeout={round(seconds)}"]
    try:
        done = subprocess.run(
            ["ssh", *options, host, command],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=seconds + 1,
        )
    except FileNotFoundError:
        return "there is no ssh here; install openssh-client"
    except subprocess.TimeoutExpired:
        return f"{host} gives no answer in {seconds:g} s; see whether it is up and ssh's port is open"
    if done.returncode == 0:
        return ""
    reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return f"ssh {host} without a password fails: {reason}; `ssh-copy-id {host}` may help"


def settings(host: str) -> dict[str, str]:
    """ssh's configuration for `host` (`ssh -G`), by lower-case name; empty if there is no ssh."""
    try:
        done = subprocess.run(["ssh", "-G", "--", host], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def keepalive_seconds(host: str) -> int | None:
    """After how many seconds without an answer ssh gives up a connection to `host`; None: never.

    As ~/.ssh/config has it; `slam-asr launch hostfile` adds its own (`for_pdsh`).
    """
    configured = settings(host)
    interval, count = (int(configured.get(name, "0")) for name in ("serveraliveinterval", "serveralivecountmax"))
    return interval * (count + 1) if interval and count else None


def for_pdsh(seconds: int) -> str:
    """PDSH_SSH_ARGS_APPEND that gives up a dead connection after `seconds`; the user's own options precede, and win."""
    interval = min(15, max(1, seconds // 4))
    count = max(1, seconds // interval - 1)
    alive = f"-o ServerAliveInterval={interval} -o ServerAliveCountMax={count} -o BatchMode=yes"
    return f"{os.environ.get(APPEND, '')} {alive}".strip()


def known(host: str) -> bool:
    """Whether `host` has an address, under the HostName of ~/.ssh/config too; behind a proxy it need not have one."""
    configured = settings(host)
    proxied = any(configured.get(name, "none") != "none" for name in ("proxyjump", "proxycommand"))
    return proxied or resolves(configured.get("hostname", host))


def resolves(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):
        return False
