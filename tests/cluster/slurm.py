"""A real Slurm of two nodes on this machine, from Debian's packages, alive as long as the process that started it."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("slurm_cluster.sh")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue", "sinfo")
OURS = re.compile(r"(SLURM|SBATCH|SRUN|SALLOC|SQUEUE|SCANCEL)_")
FREEZER = Path("/sys/fs/cgroup/freezer")

# A requeued job waits for cred_expire to pass; less than 5 s is not taken, and the default of 120 s is.
CONF = """\
ClusterName=ci
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/{proctrack}
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
MpiDefault=none
ReturnToService=2
KillWait=5
SlurmdTimeout=10
MinJobAge=3600
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=n1,n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]},{ports[2]} CPUs=32 RealMemory=64000 Gres=gpu:2
PartitionName=main Nodes=n1,n2 Default=YES PriorityTier=1 GraceTime=20 MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""
GRES = "NodeName=n1,n2 Name=gpu File=/dev/null,/dev/zero\n"
"""Two GPUs a node: any two character devices will do, in any container."""


@dataclass
class Slurm:
    """A running cluster, and how to ask it."""

    folder: Path
    environment: dict[str, str]
    proctrack: str
    process: "subprocess.Popen[bytes]"

    def run(self, *command: str, check: bool = True, **more: str) -> "subprocess.CompletedProcess[str]":
        """A command under this cluster's SLURM_CONF; what it printed is in the failure."""
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment | more, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0 or not check, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start_node(self, name: str) -> None:
        """Starts the slurmd of a node again."""
        assert self.process.stdin
        self.process.stdin.write(f"{name}\n".encode())
        self.process.stdin.flush()

    def job(self, number: str) -> dict[str, str]:
        """What scontrol knows of a job: JobState, Restarts, Reason ..."""
        said = self.run("scontrol", "show", "job", "-o", number).stdout.splitlines()[0]
        return dict(word.split("=", 1) for word in said.split(" ") if "=" in word)

    def wait(self, number: str, what: Callable[[dict[str, str]], bool], seconds: float = 900) -> dict[str, str]:
        """Until the job is as wanted; its output is in the failure."""
        deadline = time.monotonic() + seconds
        while not what(job := self.job(number)):
            assert time.monotonic() < deadline, f"job {number} is {job}\n{output_of(job)}"
            time.sleep(0.2)
        return job

    def ended(self, number: str, state: str = "COMPLETED", seconds: float = 900) -> dict[str, str]:
        """Until the job has ended for good, which must be in that state."""
        running = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "CONFIGURING", "SUSPENDED")
        job = self.wait(number, lambda job: job["JobState"] not in running, seconds)
        assert job["JobState"] == state, f"{job}\n{output_of(job)}"
        return job


def output_of(job: dict[str, str]) -> str:
    path = Path(job.get("StdOut", "/nonexistent"))
    return path.read_text(errors="replace")[-6000:] if path.is_file() else "no output"


@contextmanager
def slurm_cluster() -> Iterator[Slurm]:
    """Starts it, and ends it with everything in it."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a socket's path has 107 characters at most
    proctrack = "cgroup" if _cgroups_are_ours() else "linuxproc"
    environment = {name: value for name, value in os.environ.items() if not OURS.match(name)}
    programs = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin"
    environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": programs}
    _write_configuration(folder, proctrack)
    jail = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"] if _may_unshare() else []
    with open(folder / "cluster.log", "wb") as log:
        process = subprocess.Popen(
            [*jail, "bash", str(SCRIPT), str(folder)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # its last kill is for its own group
        )
    slurm = Slurm(folder, environment, proctrack, process)
    try:
        _wait_for_nodes(slurm)
        yield slurm
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait(600)
        for left in FREEZER.glob("slurm_n[12]"):
            _remove_cgroup(left)
        shutil.rmtree(folder, ignore_errors=True)


def _write_configuration(folder: Path, proctrack: str) -> None:
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    for name in ("state", "spool.n1", "spool.n2"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    said = CONF.format(host=host, folder=folder, user=user, proctrack=proctrack, ports=_free_ports(3))
    (folder / "slurm.conf").write_text(said)
    (folder / "gres.conf").write_text(GRES)
    cgroup = "CgroupAutomount=no\n"
    if proctrack == "cgroup":
        cgroup = f"CgroupPlugin=cgroup/v1\n{cgroup}CgroupMountpoint=/sys/fs/cgroup\n"
    (folder / "cgroup.conf").write_text(cgroup)


def _wait_for_nodes(slurm: Slurm) -> None:
    deadline = time.monotonic() + 300
    command = ("sinfo", "-h", "-p", "main", "-N", "-o", "%t")
    while (said := slurm.run(*command, check=False)).stdout.split() != ["idle", "idle"]:
        log = (slurm.folder / "cluster.log").read_text()
        assert time.monotonic() < deadline and slurm.process.poll() is None, f"{said.stdout}{said.stderr}{log}"
        time.sleep(0.1)


def _may_unshare() -> bool:
    tried = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False)
    return tried.returncode == 0


def _cgroups_are_ours() -> bool:
    """Whether proctrack/cgroup, which production uses, can run here: version 1, and writable."""
    probe = FREEZER / f"slam-asr-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True


def _remove_cgroup(folder: Path) -> None:
    for inner in sorted(folder.rglob("*"), key=lambda path: -len(path.parts)):
        if inner.is_dir():
            inner.rmdir()
    folder.rmdir()


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
