"""Commands on other hosts by ssh, how soon a dead connection is noticed, and environment variables for ranks there.

Without keep-alives a connection to a host that is gone never ends, and neither does `deepspeed`, which waits for it."""

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from model.errors import UserError

APPEND = "PDSH_SSH_ARGS_APPEND"  # options that pdsh adds to its ssh, such as `-p 2222`; our own ssh takes them too
EXPORTS = "launch/exports.sh"  # in the run's folder, while the run is going
CARRIED = re.compile(r"(HF|TORCH|NCCL|GLOO|CUDA|SLAM_ASR|UCX|MV2|MLFLOW)_\w*|OMP_NUM_THREADS|DS_ACCELERATOR", re.ASCII)
SECRET = re.compile("TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|KEY", re.IGNORECASE)


def reach(host: str, seconds: float = 10, command: str = "true") -> str:
    """Runs a command on `host` by ssh without a password; what is wrong, or "" if it succeeds."""
    options = [*os.environ.get(APPEND, "").split(), "-o", "BatchMode=yes", "-o", f"ConnectTimeout={round(seconds)}"]
    try:
        done = _ssh(*options, host, command, seconds=seconds + 1)
    except FileNotFoundError:
        return "there is no ssh here; install openssh-client"
    except subprocess.TimeoutExpired:
        return f"{host} gives no answer in {seconds:g} s; see whether it is up and ssh's port is open"
    reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return f"ssh {host} without a password fails: {reason}; `ssh-copy-id {host}` may help" if done.returncode else ""


def _ssh(*words: str, seconds: float) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["ssh", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=seconds)


def _settings(host: str) -> dict[str, str]:
    """ssh's configuration for `host` (`ssh -G`), by lower-case name; empty if there is no ssh."""
    with suppress(OSError, subprocess.TimeoutExpired):
        return dict(re.findall("^(.+?) (.+)$", _ssh("-G", "--", host, seconds=10).stdout, re.MULTILINE))
    return {}


def keepalive_seconds(host: str) -> int | None:
    """After how many seconds without an answer ssh, as configured, gives up a connection to `host`; None: never."""
    settings = _settings(host)
    interval, count = (int(settings.get(name, "0")) for name in ("serveraliveinterval", "serveralivecountmax"))
    return interval * (count + 1) if interval and count else None


def for_pdsh(seconds: int) -> str:
    """PDSH_SSH_ARGS_APPEND that gives up a dead connection after `seconds`; the user's own options precede, and win."""
    interval = min(15, max(1, seconds // 4))
    count = max(1, seconds // interval - 1)
    alive = f"-o ServerAliveInterval={interval} -o ServerAliveCountMax={count} -o BatchMode=yes"
    return f"{os.environ.get(APPEND, '')} {alive}".strip()


def known(host: str) -> bool:
    """Whether `host` has an address, under the HostName of ~/.ssh/config too; behind a proxy it need not have one."""
    settings = _settings(host)
    proxied = any(settings.get(name, "none") != "none" for name in ("proxyjump", "proxycommand"))
    return proxied or resolves(settings.get("hostname", host))


def resolves(host: str) -> bool:
    with suppress(OSError, UnicodeError):
        return bool(socket.getaddrinfo(host, None))
    return False


def is_this_host(name: str) -> bool:
    """Whether a host name or address is one of this host."""
    with suppress(OSError, UnicodeError), socket.socket() as probe:
        probe.bind((socket.gethostbyname(name), 0))
        return True
    return name == socket.gethostname()


def named(options: Sequence[str]) -> dict[str, str]:
    """The variables of --env options: `NAME=VALUE`, or `NAME` with its value here."""
    variables = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise UserError(f"--env {option!r}: {name!r} is no variable's name; give NAME or NAME=VALUE")
        if not equals and name not in os.environ:
            raise UserError(f"--env {name}: it is not set here; set it, or give {name}=VALUE")
        variables[name] = value if equals else os.environ[name]
    return variables


def deepspeed_env_lines() -> list[str]:
    """The lines NAME=VALUE of the files that deepspeed reads: DS_ENV_FILE, or .deepspeed_env at home and here.
    UserError for any other line but comments."""
    name, lines = os.environ.get("DS_ENV_FILE", ".deepspeed_env"), []
    for path in filter(Path.is_file, dict.fromkeys([Path.home() / name, Path(name).absolute()])):
        for number, line in enumerate(map(str.strip, path.read_text().splitlines()), 1):
            if line and not line.startswith("#"):
                if not re.match(r"[A-Za-z_]\w*=", line, re.ASCII):
                    raise UserError(f"{path} line {number}: {line[:60]!r} is not NAME=VALUE; correct it")
                lines.append(line)
    return lines


def shown_secrets() -> set[str]:
    """Variables that look secret, and that deepspeed would put on command lines, which everybody sees in `ps`."""
    prefixes = ("MLFLOW", "PYTHON", "MV2", "UCX", "NCCL")
    return {name for name in filter(SECRET.search, os.environ) if name.startswith(prefixes)}


def write_exports(run: Path, given: Mapping[str, str], without_secrets: bool) -> Path:
    """Writes RUN/launch/exports.sh, for the remote shells to source, as pdsh carries no variables. What looks secret is
    carried only if `given`. Devices are not carried: a hostfile's slots choose them."""
    names = set(filter(CARRIED.fullmatch, os.environ)) - {"CUDA_VISIBLE_DEVICES", *given}
    if secret := sorted(filter(SECRET.search, names)):
        print(f"launch: not carried, they look secret (--env NAME carries one): {', '.join(secret)}", file=sys.stderr)
    variables = {name: os.environ[name] for name in names.difference(secret)} | dict(given)
    path = run.absolute() / EXPORTS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        for line in [*deepspeed_env_lines(), *(f"{name}={shlex.quote(value)}" for name, value in variables.items())]:
            if not (without_secrets and SECRET.search(line.partition("=")[0])):
                file.write(f"export {line}\n")
    return path
