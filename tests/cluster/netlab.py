"""Two hosts, hosta and hostb, with sshd and pdsh between them: network namespaces on a bridge, file system shared.

Needs root. Each host has its own network, name, processes, /etc/hosts, ~/.ssh and /dev/shm; the machine's own are
untouched. All of it hangs on one process, the first of a process namespace, that reads from a pipe which the test
holds: when that closes, however the test ended, the kernel ends everything that ran on the hosts.
"""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import ranks

NAMES = ("hosta", "hostb")
ADDRESSES = {name: f"10.77.0.{number}" for number, name in enumerate(NAMES, 1)}
SECONDS_TO_COME_UP = 300.0
IN_NAMESPACES = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
IN_NAMESPACES += ["--propagation", "private"]

HOLDER = """\
set -e
made=
[ -d ~/.ssh ] || { mkdir -m 700 ~/.ssh; made=1; }
ip link add br0 type bridge
ip link set br0 up
for name in %(names)s; do
  %(unshare)s sh %(folder)s/host.sh $name </dev/null >%(folder)s/$name.log 2>&1 3>&- &
  until [ "$(readlink /proc/$!/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
  ip link add eth0 netns $! type veth peer name cable-$name
  ip link set cable-$name master br0 up
done
read -r end || true
[ -z "$made" ] || rmdir ~/.ssh
"""
HOST = """\
set -e
hostname $1
mount --bind %(folder)s/hosts /etc/hosts
mount --bind %(folder)s/ssh ~/.ssh
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.01; done
ip address add $(grep " $1\\$" /etc/hosts | cut -d' ' -f1)/24 dev eth0
ip link set eth0 up
exec /usr/sbin/sshd -D -e -f %(folder)s/sshd_config
"""
SSHD = """\
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/ssh/authorized_keys
PidFile none
UsePAM no
PermitRootLogin prohibit-password
StrictModes no
UseDNS no
"""
CLIENT = """\
IdentityFile {folder}/ssh/id_ed25519
UserKnownHostsFile {folder}/ssh/known_hosts
BatchMode yes
StrictHostKeyChecking yes
"""


@dataclass(frozen=True)
class Netlab:
    """The two hosts while they are up."""

    holder: int
    inits: dict[str, int]
    """The first process of each host, as numbered outside."""
    folder: Path

    def command(self, host: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
        """What runs `arguments` on a host, in the current folder."""
        enter = ["nsenter", "-t", str(self.inits[host]), "--net", "--uts", "--mount", "--pid"]
        given = [f"{name}={value}" for name, value in (environment or {}).items()]
        return [*enter, "env", f"--chdir={os.getcwd()}", *given, *arguments]

    def run(self, host: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(self.command(host, arguments), capture_output=True, text=True, timeout=600)

    def start(
        self, host: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[Any]":
        """Runs `arguments` on a host, from the repository's root; what it says goes into `log`."""
        with open(log, "ab") as file:
            return subprocess.Popen(
                self.command(host, arguments, environment), stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )

    def signal(self, running: "subprocess.Popen[Any]", number: int) -> None:
        """Sends a signal to what `start` has started: the only child of its nsenter."""
        (child,) = ranks.children(running.pid)
        os.kill(child, number)

    def cable(self, host: str, state: str) -> None:
        """Pulls the cable of a host ("down"), or puts it back ("up")."""
        cable = ["ip", "link", "set", f"cable-{host}", state]
        subprocess.run(["nsenter", "-t", str(self.holder), "--net", *cable], check=True)

    def processes(self, host: str) -> list[str]:
        """The command lines of what runs on a host, but for sshd."""
        said = self.run(host, "ps", "-eo", "stat=,args=").stdout.splitlines()
        ours = [line for line in said if not line.startswith("Z") and "ps -eo" not in line]
        return [line for line in ours if "sshd" not in line]


@contextmanager
def netlab(folder: Path) -> Iterator[Netlab]:
    """Brings the hosts up, with their files in `folder`; they are gone when the block ends."""
    _write_files(folder)
    holder = [*IN_NAMESPACES, "sh", str(folder / "holder.sh")]
    with open(folder / "holder.log", "wb") as log:
        running = subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=log, stderr=log)
    try:
        yield _wait_for(running, folder)
    finally:
        assert running.stdin
        running.stdin.close()
        running.wait(SECONDS_TO_COME_UP)


def _write_files(folder: Path) -> None:
    ssh = folder / "ssh"
    ssh.mkdir(mode=0o700)
    for key in (folder / "host_key", ssh / "id_ed25519"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (ssh / "authorized_keys").write_text((ssh / "id_ed25519.pub").read_text())
    host_key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    known = [f"{name},{address} {host_key}\n" for name, address in ADDRESSES.items()]
    (ssh / "known_hosts").write_text("".join(known))
    (ssh / "config").write_text(CLIENT.format(folder=folder))
    (folder / "hosts").write_text(
        "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in ADDRESSES.items())
    )
    (folder / "sshd_config").write_text(SSHD.format(folder=folder))
    words = {"folder": folder, "names": " ".join(NAMES), "unshare": " ".join(IN_NAMESPACES)}
    (folder / "holder.sh").write_text(HOLDER % words)
    (folder / "host.sh").write_text(HOST % words)


def _wait_for(running: "subprocess.Popen[bytes]", folder: Path) -> Netlab:
    """The hosts, once each answers the other by ssh."""
    deadline = time.monotonic() + SECONDS_TO_COME_UP
    while True:
        holder = next(iter(ranks.children(running.pid)), 0)
        inits = [init for host in ranks.children(holder) for init in ranks.children(host)]
        if len(inits) == len(NAMES) and all("sshd" in _name(init) for init in inits):
            lab = Netlab(holder, dict(zip(NAMES, inits, strict=True)), folder)
            if not any(lab.run(NAMES[0], "ssh", name, "true").returncode for name in NAMES):
                return lab
        logs = "\n".join(path.read_text() for path in folder.glob("*.log"))
        assert running.poll() is None and time.monotonic() < deadline, f"the hosts do not come up:\n{logs}"
        time.sleep(0.05)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""
