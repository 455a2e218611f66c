"""RUN/slurm/, what a run under Slurm keeps.

recipe.yaml, deepspeed.json   what is trained, as submitted: later edits of the recipe change nothing
train.sbatch, shards.sbatch   the scripts that sbatch got
jobs.json                     the jobs: {"train": "1234"}; of a pipeline each stage
train-1234.out                the job's output, of all its starts
lives.jsonl                   each start of the job, and the step it resumed from
refusal, CANCEL, GAVE_UP      why it is not started again
"""

import json
from pathlib import Path

from model.errors import UserError

STAGES = ("shards", "features", "train", "score")
OF_A_SUBMISSION = ("lives.jsonl", "refusal", "CANCEL", "GAVE_UP")


def folder_of(run: str) -> Path:
    """The run's folder. UserError if it is not there."""
    if not Path(run).is_dir():
        raise UserError(f"{run!r} is no folder of a run; give what run.dir of the recipe says")
    return Path(run)


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
