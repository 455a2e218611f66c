"""`slam-asr launch`: training by the real `deepspeed` command, on this host or on those of a hostfile.

Around `deepspeed` it does what that does not: it believes the run's FINISHED marker and no exit code, passes a wish to
stop on to the ranks, carries the environment to the other hosts, and leaves no process behind.

1. slots.py reads the hostfile, environment.py chooses what is carried, written.py puts it into RUN/launch/.
2. running.py starts `deepspeed`, marked by a variable in its environment, and follows it.
3. marked.py finds the processes of a launch on one host by that mark, orphans.py on all of them, by ssh.py.
4. outcome.py says what became of the run.

Exit codes: 0 the run has FINISHED; 75 it stopped as asked, or its watchdog ended it: the same command goes on; 2 a
mistake; otherwise the launcher's, or 1. One verb a file, as in launch/prep/.
"""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from train.recipe.arguments import Parser

VERBS = {
    "local": "train on this host",
    "hostfile": "train on the hosts of a hostfile, by ssh or started on each",
}


class _Verb(Parser):
    """A verb whose recipe's overrides may stand among its options."""

    verb: str

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        module(self.verb).configure(self)
        found, rest = super().parse_known_args(args, namespace)
        if any(item.startswith("-") for item in rest):
            return found, rest
        found.overrides = [*found.overrides, *rest]
        return found, []


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="hosts", required=True, metavar="VERB", parser_class=_Verb)
    for name, what in VERBS.items():
        verbs.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".").verb = name


def run(args: argparse.Namespace) -> int:
    return module(args.hosts).run(args)


def module(verb: str):
    return importlib.import_module(f"launch.deepspeed.{verb}")
