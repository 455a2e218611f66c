"""`slam-asr launch`: training by the real `deepspeed` command, on this host or on those of a hostfile.

command.py builds the command; running.py runs it, passes stop requests on to the ranks and waits for them; outcome.py
judges the run by the markers in its folder, because deepspeed's exit code is 0 when its own child is killed.

Exit codes: 0 finished; 75 stopped as asked, or ended by the watchdog: the same command resumes; 2 a mistake; otherwise
the launcher's own, or 1.
"""

import argparse
from typing import Any

from launch.deepspeed import hostfile, local
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
        module.configure(verbs.add_parser(name, help=what, description=f"{what.capitalize()}."))


def run(args: argparse.Namespace) -> int:
    return VERBS[args.hosts][0].run(args)
