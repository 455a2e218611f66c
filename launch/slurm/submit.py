"""`slam-asr submit`: a training under Slurm that requeues and resumes by itself, or a pipeline with one in it."""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import recipe
from launch.slurm import client
from launch.slurm.arguments import add_arguments, directives
from launch.slurm.folder import OF_A_SUBMISSION, read_jobs
from launch.slurm.pipeline import Stage, add_pipeline_arguments, stages
from launch.slurm.script import training
from model.errors import UserError
from train.dist.lock import holder, in_use

if TYPE_CHECKING:
    from train.recipe.config import Config


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        f"{parser.prog} RECIPE [section.key=value ...] --nodes N --gpus-per-node N --time LIMIT [options]\n"
        f"       {parser.prog} pipeline RECIPE [section.key=value ...] --build DIR=SOURCE ... [options]"
    )
    parser.description = (
        "Train under Slurm. The job saves and is requeued when its time is up or it is preempted, resumes from its "
        "newest checkpoint after any failure, and gives up only after several starts without a new checkpoint."
    )
    add_arguments(parser)
    add_pipeline_arguments(parser)


def run(args: argparse.Namespace) -> int:
    is_pipeline = args.recipe == "pipeline"
    if is_pipeline:
        if not args.overrides:
            raise UserError("no recipe is given; write `slam-asr submit pipeline RECIPE.yaml --build DIR=SOURCE ...`")
        args.recipe, *args.overrides = args.overrides
    elif given := [f"--{name}" for name in ("build", "features", "score") if getattr(args, name)]:
        raise UserError(f"{given[0]} is of a pipeline; write `slam-asr submit pipeline RECIPE ...`")
    if not Path(args.recipe).exists() and not Path(args.recipe).suffix:
        raise UserError(f"no recipe {args.recipe!r}; give a YAML file, or `pipeline` and a YAML file")
    config, deepspeed = recipe.read(args)
    folder = Path(config.run.dir).absolute()
    chain = stages(args, config, folder) if is_pipeline else []
    before = [stage for stage in chain if stage.name != "score"]
    train = Stage("train", training(args, directives(args, folder.name), folder), before[-1].name if before else "")
    chain = [*before, train, *chain[len(before) :]]
    if args.dry_run:
        for stage in chain:
            waits = f", {stage.how} {stage.after}" if stage.after else ""
            print(f"### {stage.name}.sbatch{waits}\n{stage.text}" if len(chain) > 1 else stage.text, end="")
        return 0
    if shutil.which("sbatch") is None:
        raise UserError("sbatch is not here; submit from a host of the Slurm cluster, or look with --dry-run")
    _require_free(folder)
    if not args.untested:
        _test(chain)
    return _submit(folder, config, deepspeed, chain)


def _require_free(folder: Path) -> None:
    """UserError if the folder has a job: two would wait for each other."""
    for stage, number in read_jobs(folder).items():
        for job in client.jobs(number):
            if job.live:
                raise UserError(
                    f"{folder} has its {stage} in job {job.number} ({job.state}); wait for it, `slam-asr cancel "
                    f"{folder}`, or give another run.dir"
                )
    if by := holder(folder):
        raise in_use(folder, by)


def _test(chain: list[Stage]) -> None:
    """Asks sbatch about scripts in a temporary folder: those that an earlier submission has left may still be used."""
    with tempfile.TemporaryDirectory() as folder:
        for stage in chain:
            script = Path(folder) / f"{stage.name}.sbatch"
            script.write_text(stage.text)
            try:
                client.test(script)
            except UserError as error:
                raise UserError(
                    f"Slurm would not run {stage.name}: {error}; ask for what there is, or give --untested if nodes "
                    "are only down or drained now"
                ) from None


def _submit(folder: Path, config: "Config", deepspeed: dict[str, Any], chain: list[Stage]) -> int:
    """Writes RUN/slurm/, which every start of the job reads, and submits the stages."""
    from train.recipe.identity import to_yaml
    from train.run_folder import write_file

    slurm, numbers = folder / "slurm", {}
    slurm.mkdir(parents=True, exist_ok=True)
    for name in OF_A_SUBMISSION:
        (slurm / name).unlink(missing_ok=True)
    write_file(slurm / "recipe.yaml", to_yaml(config).encode())
    write_file(slurm / "deepspeed.json", (json.dumps(deepspeed, indent=2) + "\n").encode())
    for stage in chain:
        write_file(slurm / f"{stage.name}.sbatch", stage.text.encode())
    for stage in chain:
        after = f"{stage.how}:{numbers[stage.after]}" if stage.after else ""
        numbers[stage.name] = client.submit(slurm / f"{stage.name}.sbatch", after)
        # At once: what is submitted can then be cancelled, even if the next submission fails.
        write_file(slurm / "jobs.json", (json.dumps(numbers, indent=1) + "\n").encode())
        waits = f", after {stage.after}" if stage.after else ""
        print(f"{stage.name}: job {numbers[stage.name]}{waits}  (sbatch {slurm / stage.name}.sbatch)")
    print(f"slam-asr status {folder}    how far it is", file=sys.stderr)
    print(f"slam-asr cancel {folder}    save and end it", file=sys.stderr)
    print(f"tail -F {slurm}/train-{numbers['train']}.out    its output", file=sys.stderr)
    return 0
