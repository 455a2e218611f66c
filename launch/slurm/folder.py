"""What a run under Slurm keeps in RUN/slurm/.

recipe.yaml, deepspeed.json   what is trained, as it was submitted: later edits of the recipe change nothing
train.sbatch, shards.sbatch   what sbatch got
jobs.json                     the jobs: {"train": "1234"}; of a pipeline each stage
train-1234.out                what it wrote, all lives after one another
lives.jsonl                   each life, and the step it began from
refusal, CANCEL, GAVE_UP      why it is not tried again
"""

import json
from pathlib import Path

from model.errors import UserError

STAGES = ("shards", "features", "train", "score")
OF_A_SUBMISSION = ("lives.jsonl", "refusal", "CANCEL", "GAVE_UP")


def folder_of(run: str | Path) -> Path:
    """The run's folder, which has to be there."""
    folder = Path(run)
    if not folder.is_dir():
        raise UserError(f"{str(run)!r} is no folder of a run; give what run.dir of the recipe says")
    return folder


def read_jobs(run: Path) -> dict[str, str]:
    """The job of each stage that was submitted, in order; none where the run was not started by `submit`."""
    try:
        said = json.loads((run / "slurm" / "jobs.json").read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {run / 'slurm' / 'jobs.json'}: {error}; ask squeue --me for the job") from None
    return {stage: str(said[stage]) for stage in STAGES if stage in said}


def output_files(run: Path, stage: str) -> list[Path]:
    """What a stage's job, or each element of its array, has written, the oldest first."""
    job = read_jobs(run).get(stage)
    found = (run / "slurm").glob(f"{stage}-{job}*.out") if job else ()
    return sorted(found, key=lambda file: (len(file.name), file.name))
