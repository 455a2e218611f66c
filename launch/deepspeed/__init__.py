"""`slam-asr launch`: training by the real `deepspeed` command, on this host or on those of a hostfile.
Begin with running.py. May import launch.recipe, launch.stages, train, data_prep and model."""

import argparse
from pathlib import Path
from typing import Any

from launch import recipe
from launch.deepspeed import hostfile, local
from model.errors import UserError
from train.dist.lock import holder, in_use
from train.recipe.arguments import Parser

VERBS = {
    "local": (local, "train on this host"),
    "hostfile": (hostfile, "train on the hosts of a hostfile, by ssh or started on each"),
}


class _Verb(Parser):
    """Takes `section.key=value` also between and after its options."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, rest = super().parse_known_args(args, namespace)
        if not any(item.startswith("-") for item in rest):
            parsed.overrides, rest = [*parsed.overrides, *rest], []
        return parsed, rest


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="hosts", required=True, metavar="VERB", parser_class=_Verb)
    for name, (module, what) in VERBS.items():
        verb = verbs.add_parser(name, help=what, description=f"{what.capitalize()}.")
        module.configure(verb)
        recipe.configure(verb)
        verb.add_argument("--master-port", type=int, help="where the ranks meet (default: a free one)")


def run(args: argparse.Namespace) -> int:
    if args.master_port is not None and not 0 < args.master_port < 65536:
        raise UserError(f"--master-port is {args.master_port}; give a port from 1 to 65535")
    config, _ = recipe.read(args)
    if by := holder(Path(config.run.dir)):
        raise in_use(Path(config.run.dir), by)
    return VERBS[args.hosts][0].run(args, config)
