"""Trainings submitted to the Slurm of slurm.py: their processes, a failing node, and comparing their results."""

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests import ranks
from tests.cluster.slurm import Slurm

STEPS, SAVED = 160, 20
ENVIRONMENT = "MASTER_ADDR=127.0.0.1\nGLOO_SOCKET_IFNAME=lo\nDS_ACCELERATOR=cpu\nOMP_NUM_THREADS=1\n"
"""n1 and n2 are no names of hosts, so the ranks meet on loopback."""
ONE_NODE = ("--ranks-per-node", "2", "--gpus-per-node", "0", "--no-preflight")


@dataclass
class Submissions:
    """The cluster, and the folder of its runs."""

    slurm: Slurm
    folder: Path

    @property
    def ground(self) -> Path:
        return self.folder / "ground"

    def submit(self, name: str, *options: str) -> tuple[Path, str]:
        """The run's folder and the job's number."""
        run = self.folder / name
        what = [str(self.ground / "recipe.yaml"), f"run.dir={run}", f"optim.max_steps={STEPS}"]
        what += [f"save.every_steps={SAVED}", "log.every_steps=10", "watch.every_steps=null"]
        common = ["--env-file", str(self.folder / "environment"), "--cpus-per-task", "1"]
        printed = self.slurm.run("slam-asr", "submit", *what, *common, *options)
        return run, printed.stdout.split()[2]

    def asr(self, *arguments: str, check: bool = True) -> str:
        done = self.slurm.run("slam-asr", *arguments, check=check)
        return done.stdout + done.stderr

    def ranks_of(self, job: str) -> list[int]:
        """The processes that train for a job, by rank."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            env = environment(process)
            with suppress(OSError):
                trains = b"\0-m\0train\0" in (process / "cmdline").read_bytes()
                ours = trains and Path(os.readlink(process / "exe")).name.startswith("python")
                if ours and env.get("SLURM_JOB_ID") == job:
                    found[int(env["SLURM_PROCID"])] = int(process.name)
        return [found[rank] for rank in sorted(found)]


def fail_node(node: str) -> None:
    """Kills all that runs on a node, as a power cut would: slurmd first, then the slurmstepds, so that none reports."""
    environments = {int(process.name): environment(process) for process in Path("/proc").glob("[0-9]*")}
    daemons = [pid for pid, env in environments.items() if env.get("SLAM_ASR_NODE") == node]
    tasks = [pid for pid, env in environments.items() if env.get("SLURMD_NODENAME") == node]
    stepds = {parent(pid) for pid in tasks} - {*tasks, *daemons}
    assert daemons and stepds and tasks
    for pid in [*daemons, *stepds, *tasks]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def environment(process: Path) -> dict[str, str]:
    try:
        printed = (process / "environ").read_text(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in printed if "=" in line)


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def assert_same(run: Path, straight: Path) -> None:
    """Asserts that a run finished with bit-identical adapter and optimizer, and reported each step once."""
    assert (run / "FINISHED").read_text() == f"{STEPS}\n"
    for name in ("adapter.safetensors", "optimizer.safetensors"):
        ours, theirs = (folder / "checkpoints" / f"step-{STEPS:08d}" / name for folder in (run, straight))
        assert ours.read_bytes() == theirs.read_bytes()
    assert ranks.losses(run, figure="step") == ranks.losses(straight, figure="step")
