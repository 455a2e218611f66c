"""Slurm's own commands: sbatch, squeue, scontrol, scancel, without a shell, their complaints as one line."""

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from model.errors import UserError

OF_ANOTHER_LAUNCH = re.compile(
    r"(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT)$|(TORCHELASTIC|OMPI|PMIX|PMI|CROSS|SLURM)_"
    r"|SLAM_ASR_REFUSAL$"
)
"""Variables that a job submitted from inside another launch would inherit, and take for its own."""
KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")
OTHER_NAMES = {"time": ("TIMELIMIT",), "array": ("ARRAY_INX",), "requeue": ("REQUEUE", "NO_REQUEUE")}
"""Of variables that would overrule an #SBATCH line; most are named after the option."""
SECONDS = 60.0
OVER = ("", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE")
OVER += ("OUT_OF_MEMORY", "REVOKED")
"""States of a job that will not run any more, or that Slurm has forgotten."""
NO_NOISE = re.compile(r"^(sbatch|scancel|scontrol|squeue): (error: )?")


@dataclass(frozen=True)
class Job:
    """What Slurm says of a job, or of an element of an array."""

    number: str
    state: str
    """PENDING, RUNNING, COMPLETED ...; "" where Slurm has forgotten it."""
    reason: str = ""
    restarts: int = 0
    nodes: str = ""
    since: str = ""
    """How long it runs, of how long it may."""
    exit_code: str = ""

    @property
    def live(self) -> bool:
        """Whether it runs or may run yet."""
        return self.state not in OVER


def submit(script: Path, dependency: str = "") -> str:
    """The number of the job that sbatch made of a script."""
    after = [f"--dependency={dependency}", "--kill-on-invalid-dep=yes"] if dependency else []
    said = _ask("sbatch", "--parsable", *after, str(script), without=_overruling(script))
    return said.partition(";")[0].strip()


def test(script: Path) -> None:
    """UserError where sbatch would refuse a script, or leave it pending for ever."""
    _ask("sbatch", "--test-only", str(script), without=_overruling(script))


def _overruling(script: Path) -> set[str]:
    """The variables by which a site's or a person's shell would overrule what a script asks for."""
    asked = re.findall(r"^#SBATCH --([a-z-]+)", script.read_text(), re.MULTILINE)
    names = (name for one in asked for name in OTHER_NAMES.get(one, (one.upper().replace("-", "_"),)))
    return {f"SBATCH_{name}" for name in names}


def jobs(number: str) -> list[Job]:
    """A job, or the elements of an array; one without a state where Slurm does not know it (any more)."""
    try:
        said = _ask("scontrol", "show", "job", "-o", number)
    except UserError as error:
        if "Invalid job id" in str(error):
            return [Job(number, "")]
        raise
    return [_job(line) for line in said.splitlines() if line.startswith("JobId=")]


def _job(line: str) -> Job:
    said = dict(word.split("=", 1) for word in line.split(" ") if "=" in word)
    number = said["JobId"]
    if "ArrayJobId" in said:
        number = f"{said['ArrayJobId']}_{said.get('ArrayTaskId', '')}"
    reason = said.get("Reason", "")
    return Job(
        number,
        said.get("JobState", ""),
        "" if reason == "None" else reason,
        int(said.get("Restarts", "0")),
        "" if said.get("NodeList") == "(null)" else said.get("NodeList", ""),
        f"{said.get('RunTime', '')} of {said.get('TimeLimit', '')}",
        said.get("ExitCode", ""),
    )


def cancel(number: str, signal: str = "") -> None:
    """Ends a job; with a signal, sends that to its ranks."""
    _ask("scancel", *([f"--signal={signal}"] if signal else []), number)


def _ask(program: str, *arguments: str, without: Collection[str] = ()) -> str:
    if shutil.which(program) is None:
        raise UserError(f"{program} is not here; give this command on a host of the Slurm cluster")
    try:
        done = subprocess.run(
            [program, *arguments],
            env=_environment(os.environ, without),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{program} gave no answer for {SECONDS:.0f} s; ask for Slurm's health with sdiag") from None
    if done.returncode:
        lines = [NO_NOISE.sub("", line) for line in done.stderr.strip().splitlines() if line.strip()]
        raise UserError(f"{program} {' '.join(arguments)}: {'; '.join(lines) or f'exit code {done.returncode}'}")
    return done.stdout


def _environment(env: Mapping[str, str], without: Collection[str]) -> dict[str, str]:
    ours = (name for name in env if name in KEPT or not OF_ANOTHER_LAUNCH.match(name))
    return {name: env[name] for name in ours if name not in without}
