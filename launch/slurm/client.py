"""Slurm's own commands (sbatch, scontrol, scancel), run without a shell, and the jobs of a run."""

import json
import os
import re
import shutil
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from model.errors import UserError

OF_ANOTHER_LAUNCH = re.compile(
    r"(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT)$|(TORCHELASTIC|OMPI|PMIX|PMI|CROSS|SLURM)_"
    r"|SLAM_ASR_REFUSAL$"
)
"""Variables that a job would inherit if it is submitted from inside another launch, and mistake for its own."""
KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")
OTHER_NAMES = {"time": ("TIMELIMIT",), "array": ("ARRAY_INX",), "requeue": ("REQUEUE", "NO_REQUEUE")}
"""Of variables that would overrule an #SBATCH line; most are named after the option."""
STAGES = ("shards", "features", "train", "score")
OVER = "COMPLETED CANCELLED FAILED TIMEOUT NODE_FAIL PREEMPTED BOOT_FAIL DEADLINE OUT_OF_MEMORY REVOKED".split()
"""States of a job that will not run any more."""


@dataclass(frozen=True)
class Job:
    """A job, or an element of an array."""

    number: str
    state: str  # PENDING, RUNNING, COMPLETED ...; "" where Slurm has forgotten it
    reason: str = ""
    restarts: int = 0
    nodes: str = ""
    since: str = ""  # how long it has run, of how long it may
    exit_code: str = ""

    @property
    def live(self) -> bool:
        """Whether it runs or may still run."""
        return self.state not in ("", *OVER)


def run_folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise UserError(f"{text!r} is no folder of a run; give what run.dir of the recipe says")
    return Path(text)


def read_jobs(run: Path) -> dict[str, str]:
    """The job of each stage that was submitted, in order; empty if the run was not started by `submit`."""
    file = run / "slurm" / "jobs.json"
    try:
        jobs = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}; ask squeue --me for the job") from None
    return {stage: str(jobs[stage]) for stage in STAGES if stage in jobs}


def jobs(number: str) -> list[Job]:
    """A job, or the elements of an array; one without a state where Slurm does not know it (any more)."""
    try:
        lines = call("scontrol", "show", "job", "-o", number).splitlines()
    except UserError as error:
        if "Invalid job id" in str(error):
            return [Job(number, "")]
        raise
    return [_job(line) for line in lines if line.startswith("JobId=")]


def _job(line: str) -> Job:
    fields = defaultdict(str, dict(word.split("=", 1) for word in line.split(" ") if "=" in word))
    return Job(
        number=f"{fields['ArrayJobId']}_{fields['ArrayTaskId']}" if fields["ArrayJobId"] else fields["JobId"],
        state=fields["JobState"],
        reason=fields["Reason"].removeprefix("None"),
        restarts=int(fields["Restarts"] or 0),
        nodes=fields["NodeList"].removeprefix("(null)"),
        since=f"{fields['RunTime']} of {fields['TimeLimit']}",
        exit_code=fields["ExitCode"],
    )


def call(program: str, *arguments: str) -> str:
    """Runs a command of Slurm, sbatch with its script last, and returns what it printed. UserError if that fails."""
    if shutil.which(program) is None:
        raise UserError(f"{program} is not here; give this command on a host of the Slurm cluster")
    environment = _environment(Path(arguments[-1]) if program == "sbatch" else None)
    try:
        done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        raise UserError(f"{program} gave no answer for 60 s; ask for Slurm's health with sdiag") from None
    if done.returncode:
        lines = [re.sub(f"^{program}: (error: )?", "", line) for line in done.stderr.splitlines() if line.strip()]
        raise UserError(f"{program} {' '.join(arguments)}: {'; '.join(lines) or f'exit code {done.returncode}'}")
    return done.stdout


def _environment(script: Path | None) -> dict[str, str]:
    """Ours without another launch's variables, and without those by which a site would overrule a script's lines."""
    options = re.findall(r"^#SBATCH --([a-z-]+)", script.read_text(), re.MULTILINE) if script else []
    names = (name for option in options for name in OTHER_NAMES.get(option, (option.upper().replace("-", "_"),)))
    overruling = {f"SBATCH_{name}" for name in names}
    ours = (name for name in os.environ if name in KEPT or not OF_ANOTHER_LAUNCH.match(name))
    return {name: os.environ[name] for name in ours if name not in overruling}
