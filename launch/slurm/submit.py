"""`slam-asr submit`: a training under Slurm that goes on by itself; or a whole pipeline, stage after stage."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import recipe
from launch.slurm import client
from launch.slurm.arguments import add_arguments, program, require_slurm, resources
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
        "Train under Slurm. The job saves and is requeued when its time is up or it is preempted, goes on from its "
        "newest checkpoint after any failure, and gives up only where lives in a row lead nowhere."
    )
    add_arguments(parser)
    add_pipeline_arguments(parser)


def run(args: argparse.Namespace) -> int:
    is_pipeline = args.recipe == "pipeline"
    if is_pipeline:
        if not args.overrides:
            raise UserError("no recipe is given; write `slam-asr submit pipeline RECIPE.yaml --build DIR=SOURCE ...`")
        args.recipe, *args.overrides = args.overrides
    config, deepspeed = _read(args)
    folder = Path(config.run.dir).absolute()
    chain = stages(args, config, folder) if is_pipeline else _alone(args)
    train = _training(args, folder)
    where = next((i for i, stage in enumerate(chain) if stage.name == "score"), len(chain))
    chain.insert(where, Stage("train", train, chain[where - 1].name if where else "", "afterok"))
    if args.dry_run:
        for stage in chain:
            waits = f", {stage.how} {stage.after}" if stage.after else ""
            print(f"### {stage.name}.sbatch{waits}\n{stage.text}" if len(chain) > 1 else stage.text, end="")
        return 0
    require_slurm()
    _require_free(folder)
    if not args.untested:
        _test(chain)
    _keep(folder, config, deepspeed, chain)
    return _submit(folder, chain)


def _read(args: argparse.Namespace) -> tuple[Config, dict[str, Any]]:
    if not Path(args.recipe).exists() and not Path(args.recipe).suffix:
        raise UserError(f"no recipe {args.recipe!r}; give a YAML file, or `pipeline` and a YAML file")
    return recipe.read(args)


def _alone(args: argparse.Namespace) -> list[Stage]:
    if given := [f"--{name}" for name in ("build", "features", "score") if getattr(args, name)]:
        raise UserError(f"{given[0]} is of a pipeline; write `slam-asr submit pipeline RECIPE ...`")
    return []


def _training(args: argparse.Namespace, folder: Path) -> str:
    return training(
        resources(args, folder.name),
        program(args),
        folder,
        signal_seconds=args.signal_seconds,
        give_up_after=args.give_up_after,
        preflight=not args.no_preflight,
        flags=["--allow-changes"] if args.allow_changes else [],
    )


def _require_free(folder: Path) -> None:
    """Two jobs in one folder would wait for each other."""
    for stage, number in read_jobs(folder).items():
        for job in client.jobs(number):
            if job.live:
                raise UserError(
                    f"{folder} has its {stage} in job {job.number} ({job.state}); wait for it, `slam-asr cancel "
                    f"{folder}`, or give another run.dir"
                )
    if by := holder(folder):  # a run that no job of ours has begun
        raise in_use(folder, by)


def _test(chain: list[Stage]) -> None:
    """Asks sbatch before anything is kept, as what an earlier submission kept may still be of use."""
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


def _keep(folder: Path, config: Config, deepspeed: dict[str, Any], chain: list[Stage]) -> None:
    """The snapshot that every life of the job reads."""
    from train.recipe.identity import to_yaml
    from train.run_folder import write_file

    kept = folder / "slurm"
    kept.mkdir(parents=True, exist_ok=True)
    for name in OF_A_SUBMISSION:
        (kept / name).unlink(missing_ok=True)
    write_file(kept / "recipe.yaml", to_yaml(config).encode())
    write_file(kept / "deepspeed.json", (json.dumps(deepspeed, indent=2) + "\n").encode())
    for stage in chain:
        write_file(kept / f"{stage.name}.sbatch", stage.text.encode())


def _submit(folder: Path, chain: list[Stage]) -> int:
    from train.run_folder import write_file

    kept, numbers = folder / "slurm", {}
    for stage in chain:
        after = f"{stage.how}:{numbers[stage.after]}" if stage.after else ""
        numbers[stage.name] = client.submit(kept / f"{stage.name}.sbatch", after)
        # At once: what is submitted can be cancelled, whatever comes of the rest.
        write_file(kept / "jobs.json", (json.dumps(numbers, indent=1) + "\n").encode())
        waits = f", after {stage.after}" if stage.after else ""
        print(f"{stage.name}: job {numbers[stage.name]}{waits}  (sbatch {kept / stage.name}.sbatch)")
    width = shutil.get_terminal_size().columns
    print("-" * min(60, width), file=sys.stderr)
    for verb, what in (("status", "how far it is"), ("logs -f", "what it writes"), ("cancel", "save and end it")):
        print(f"slam-asr {verb} {folder}    {what}", file=sys.stderr)
    return 0
