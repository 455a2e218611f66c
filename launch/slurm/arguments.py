"""The options of `slam-asr submit`, and the #SBATCH options that they ask for."""

import argparse
from pathlib import Path

from data_prep.figures import counted
from launch import recipe
from launch.slurm.script import Directives
from model.errors import UserError, require_at_least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of a training's job, and of a pipeline's."""
    recipe.configure(parser)
    add = parser.add_argument_group("what is asked of Slurm").add_argument
    add("--nodes", type=int, default=1, metavar="N", help="(1)")
    add("--gpus-per-node", type=int, default=1, metavar="N", help="(1); 0 trains on CPUs")
    add("--ranks-per-node", type=int, metavar="N", help="default: one a GPU")
    add("--cpus-per-task", type=int, default=4, metavar="N", help="cores of a rank (4)")
    add("--mem", default="", metavar="SIZE", help="memory of a node, 0 for all; default: the partition's")
    add("--time", default="", metavar="LIMIT", help="as 12:00:00 or 2-00:00:00; default: the partition's")
    for name in ("partition", "account", "qos", "constraint"):
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


def directives(args: argparse.Namespace, name: str) -> Directives:
    """The options of the training's job; `name` is the run's."""
    for flag, least in (("nodes", 1), ("cpus_per_task", 1), ("signal_seconds", 1), ("give_up_after", 1)):
        require_at_least(f"--{flag.replace('_', '-')}", getattr(args, flag), least)
    require_at_least("--gpus-per-node", args.gpus_per_node, 0)
    ranks = max(1, args.gpus_per_node) if args.ranks_per_node is None else args.ranks_per_node
    if ranks < 1 or (args.gpus_per_node and ranks > args.gpus_per_node):
        raise UserError(
            f"--ranks-per-node is {ranks}, with {counted(args.gpus_per_node, 'GPU')} a node; a rank has one of its own"
        )
    return {
        "job-name": args.name or name,
        "nodes": args.nodes,
        "ntasks-per-node": ranks,
        "gpus-per-node": args.gpus_per_node,
        "cpus-per-task": args.cpus_per_task,
        **{name: getattr(args, name) for name in ("mem", "time", "partition", "account", "qos", "constraint")},
    }
