"""What `slam-asr submit` is told, and the resources and programs that come of it."""

import argparse
import shutil
import sys
from pathlib import Path

from data_prep.figures import counted
from launch import recipe
from launch.slurm.script import Program, Resources
from model.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of a training's job, and of a pipeline's."""
    recipe.configure(parser)
    of = parser.add_argument_group("what is asked of Slurm").add_argument
    of("--nodes", type=int, default=1, metavar="N", help="(1)")
    of("--gpus-per-node", type=int, default=1, metavar="N", help="(1); 0 trains on CPUs")
    of("--ranks-per-node", type=int, metavar="N", help="default: one a GPU")
    of("--cpus-per-task", type=int, default=4, metavar="N", help="cores of a rank (4)")
    of("--mem", default="", metavar="SIZE", help="memory of a node, 0 for all; default: the partition's")
    of("--time", default="", metavar="LIMIT", help="as 12:00:00 or 2-00:00:00; default: the partition's")
    for name in ("partition", "account", "qos", "constraint"):
        of(f"--{name}", default="", metavar="NAME")
    of("--name", default="", help="of the job; default: the run's")
    of("--sbatch", action="append", default=[], metavar="--OPTION=VALUE", help="any other directive; may be repeated")
    how = parser.add_argument_group("how it is run").add_argument
    how("--env-file", type=Path, metavar="FILE", help="shell lines for the job's environment: module load, NAME=VALUE")
    how("--container", default="", metavar="IMAGE", help="run the ranks in it: Apptainer for NAME.sif, else Pyxis")
    how("--mounts", default="", metavar="SRC:DST,...", help="into the container, beside the current folder")
    how("--python", default="", help="of the ranks; default: this one, python3 in a container")
    how(
        "--signal-seconds",
        type=int,
        default=300,
        metavar="S",
        help="before the limit, to end a validation and save (300)",
    )
    how("--give-up-after", type=int, default=5, metavar="N", help="lives in a row without a new checkpoint (5)")
    how("--untested", action="store_true", help="submit also what `sbatch --test-only` refuses")
    how("--no-preflight", action="store_true", help="do not run `slam-asr doctor` on all ranks first")


def resources(args: argparse.Namespace, name: str) -> Resources:
    """Of the training."""
    for flag in ("nodes", "cpus_per_task", "signal_seconds", "give_up_after"):
        _at_least(args, flag, 1)
    _at_least(args, "gpus_per_node", 0)
    ranks = max(1, args.gpus_per_node) if args.ranks_per_node is None else args.ranks_per_node
    if ranks < 1 or (args.gpus_per_node and ranks > args.gpus_per_node):
        raise UserError(
            f"--ranks-per-node is {ranks}, with {counted(args.gpus_per_node, 'GPU')} a node; a rank has one of its own"
        )
    return Resources(
        name=args.name or name,
        nodes=args.nodes,
        gpus_per_node=args.gpus_per_node,
        ranks_per_node=ranks,
        cpus_per_task=args.cpus_per_task,
        time=args.time,
        partition=args.partition,
        account=args.account,
        qos=args.qos,
        constraint=args.constraint,
        memory=args.mem,
        more=tuple(args.sbatch),
    )


def _at_least(args: argparse.Namespace, flag: str, least: int) -> None:
    value = getattr(args, flag)
    if value < least:
        raise UserError(f"--{flag.replace('_', '-')} is {value}, it must be at least {least}")


def program(args: argparse.Namespace) -> Program:
    """How ranks are started."""
    if args.env_file is not None and not args.env_file.is_file():
        raise UserError(f"--env-file {str(args.env_file)!r} is no file; give one with shell lines, or leave it out")
    if args.mounts and not args.container:
        raise UserError(f"--mounts {args.mounts} goes into a container, and there is no --container")
    return Program(
        python=args.python or ("python3" if args.container else sys.executable),
        here=sys.executable,
        folder=Path.cwd(),
        env_file=args.env_file and args.env_file.resolve(),
        container=args.container,
        mounts=args.mounts,
    )


def require_slurm() -> None:
    """UserError where no job can be submitted from."""
    if shutil.which("sbatch") is None:
        raise UserError("sbatch is not here; submit from a host of the Slurm cluster, or look with --dry-run")
