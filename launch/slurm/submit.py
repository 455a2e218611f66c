"""`slam-asr submit`: a training under Slurm that requeues and resumes by itself, or a pipeline with one in it."""

import argparse
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import recipe
from launch.slurm import client
from launch.slurm.scripts import Directives, Stage, pipeline, training
from model.errors import UserError, counted, require_at_least
from train.dist.lock import holder, in_use

if TYPE_CHECKING:
    from train.recipe.config import Config

OF_A_SUBMISSION = ("lives.jsonl", "refusal", "CANCEL", "GAVE_UP")
NAMED = ("partition", "account", "qos", "constraint")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        f"{parser.prog} RECIPE [section.key=value ...] --nodes N --gpus-per-node N --time LIMIT [options]\n"
        f"       {parser.prog} pipeline RECIPE [section.key=value ...] --build DIR=SOURCE ... [options]"
    )
    parser.description = (
        "Train under Slurm. The job saves and is requeued when its time is up or it is preempted, resumes from its "
        "newest checkpoint after any failure, and gives up only after several starts without a new checkpoint."
    )
    recipe.configure(parser)
    add = parser.add_argument_group("what is asked of Slurm").add_argument
    add("--nodes", type=int, default=1, metavar="N", help="(1)")
    add("--gpus-per-node", type=int, default=1, metavar="N", help="(1); 0 trains on CPUs")
    add("--ranks-per-node", type=int, metavar="N", help="default: one a GPU")
    add("--cpus-per-task", type=int, default=4, metavar="N", help="cores of a rank (4)")
    add("--mem", default="", metavar="SIZE", help="memory of a node, 0 for all; default: the partition's")
    add("--time", default="", metavar="LIMIT", help="as 12:00:00 or 2-00:00:00; default: the partition's")
    for name in NAMED:
        add(f"--{name}", default="", metavar="NAME")
    add("--name", default="", help="of the job; default: the run's")
    add("--sbatch", action="append", default=[], metavar="--OPTION=VALUE", help="any other directive; may be repeated")
    add = parser.add_argument_group("how it is run").add_argument
    add("--env-file", type=Path, metavar="FILE", help="shell lines for the job's environment: module load, NAME=VALUE")
    add("--container", default="", metavar="IMAGE", help="run the ranks in it: Apptainer for NAME.sif, else Pyxis")
    add("--mounts", default="", metavar="SRC:DST,...", help="into the container, beside the current folder")
    add("--python", default="", help="of the ranks; default: this one, python3 in a container")
    when = "how long before the limit the ranks are asked to save: longer than a validation takes (300)"
    add("--signal-seconds", type=int, default=300, metavar="S", help=when)
    add("--give-up-after", type=int, default=5, metavar="N", help="starts in a row without a new checkpoint (5)")
    add("--untested", action="store_true", help="submit also what `sbatch --test-only` refuses")
    add("--no-preflight", action="store_true", help="do not run `slam-asr doctor` on all ranks first")
    add = parser.add_argument_group("of a pipeline").add_argument
    add("--build", action="append", default=[], metavar="DIR=SOURCE", help="shards of a corpus; may be repeated")
    example = 'of `prep build`, as --build-options="--lowercase --max-seconds 30"'
    add("--build-options", default="", metavar="OPTIONS", help=example)
    add("--features", action="append", default=[], metavar="DIR=SHARDS", help="frames of shards; may be repeated")
    add("--feature-options", default="", metavar="OPTIONS", help="of `prep features`, likewise")
    add("--score", action="append", default=[], metavar="SHARDS", help="score the adapter on them; may be repeated")
    add("--at-once", type=int, default=0, metavar="N", help="elements of a stage that run at a time; default: all")
    add("--prep-partition", default="", metavar="NAME", help="of the shards; default: --partition")
    add("--prep-cpus", type=int, default=16, metavar="N", help="cores of an element of the shards (16)")
    add("--prep-time", default="", metavar="LIMIT", help="of an element before or after training; default: --time")


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
    asked = _directives(args, folder.name)
    train = training(args, asked, folder)
    chain = pipeline(args, config, train, asked) if is_pipeline else [train]
    if args.dry_run:
        for stage in chain:
            waits = f", {stage.how} {stage.after}" if stage.after else ""
            print(f"### {stage.name}.sbatch{waits}\n{stage.text}" if is_pipeline else stage.text, end="")
        return 0
    if shutil.which("sbatch") is None:
        raise UserError("sbatch is not here; submit from a host of the Slurm cluster, or look with --dry-run")
    _require_free(folder)
    for stage in () if args.untested else chain:
        _test(stage)
    return _submit(folder, config, deepspeed, chain)


def _directives(args: argparse.Namespace, run: str) -> Directives:
    for flag, least in (("nodes", 1), ("cpus_per_task", 1), ("signal_seconds", 1), ("give_up_after", 1)):
        require_at_least(f"--{flag.replace('_', '-')}", getattr(args, flag), least)
    require_at_least("--gpus-per-node", args.gpus_per_node, 0)
    ranks = max(1, args.gpus_per_node) if args.ranks_per_node is None else args.ranks_per_node
    if ranks < 1 or (args.gpus_per_node and ranks > args.gpus_per_node):
        gpus = counted(args.gpus_per_node, "GPU")
        raise UserError(f"--ranks-per-node is {ranks}, with {gpus} a node; a rank has one of its own")
    return {
        "job-name": args.name or run,
        "nodes": args.nodes,
        "ntasks-per-node": ranks,
        "gpus-per-node": args.gpus_per_node,
        "cpus-per-task": args.cpus_per_task,
        **{name: getattr(args, name) for name in ("mem", "time", *NAMED)},
    }


def _require_free(folder: Path) -> None:
    """UserError if the folder is in use: two jobs would wait for each other."""
    for stage, number in client.read_jobs(folder).items():
        if job := next((job for job in client.jobs(number) if job.live), None):
            todo = f"wait for it, `slam-asr cancel {folder}`, or give another run.dir"
            raise UserError(f"{folder} has its {stage} in job {job.number} ({job.state}); {todo}")
    if by := holder(folder):
        raise in_use(folder, by)


def _test(stage: Stage) -> None:
    """Asks sbatch about a temporary file: the script that an earlier submission has left may still be used."""
    with tempfile.NamedTemporaryFile("w", suffix=".sbatch") as script:
        script.write(stage.text)
        script.flush()
        try:
            client.call("sbatch", "--test-only", script.name)
        except UserError as error:
            todo = "ask for what there is, or give --untested if nodes are only down or drained now"
            raise UserError(f"Slurm would not run {stage.name}: {error}; {todo}") from None


def _submit(folder: Path, config: "Config", deepspeed: dict[str, Any], chain: list[Stage]) -> int:
    """Writes RUN/slurm/, which every start of the job reads, and submits the stages."""
    from train.recipe.identity import to_yaml
    from train.run_folder import write_file

    slurm, numbers = folder / "slurm", {}
    slurm.mkdir(parents=True, exist_ok=True)
    for name in OF_A_SUBMISSION:
        (slurm / name).unlink(missing_ok=True)
    files = {"recipe.yaml": to_yaml(config), "deepspeed.json": json.dumps(deepspeed, indent=2) + "\n"}
    for name, text in (files | {f"{stage.name}.sbatch": stage.text for stage in chain}).items():
        write_file(slurm / name, text.encode())
    for stage in chain:
        script = str(slurm / f"{stage.name}.sbatch")
        after = f"--dependency={stage.how}:{numbers[stage.after]} --kill-on-invalid-dep=yes" if stage.after else ""
        numbers[stage.name] = re.split("[;\\s]", client.call("sbatch", "--parsable", *after.split(), script))[0]
        # At once: what is submitted can then be cancelled, even if the next submission fails.
        write_file(slurm / "jobs.json", (json.dumps(numbers, indent=1) + "\n").encode())
        waits = f", after {stage.after}" if stage.after else ""
        print(f"{stage.name}: job {numbers[stage.name]}{waits}  (sbatch {script})")
    commands = [f"slam-asr status {folder}    how far it is", f"slam-asr cancel {folder}    save and end it"]
    print(*commands, f"tail -F {slurm}/train-{numbers['train']}.out    its output", sep="\n", file=sys.stderr)
    return 0
