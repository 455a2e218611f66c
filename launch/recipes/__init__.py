"""`slam-asr recipe`: recipes written for a person's own data.

choices.py says what to train with, by hours of data and by the LLM; text.py writes it; new.py is the verb.
"""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from launch.arguments import Parser

VERBS = {"new": "write a commented recipe that fits given data and models"}


class _Verb(Parser):
    """A verb whose arguments are asked of its module once it is the one that was typed."""

    verb: str

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        _module(self.verb).configure(self)
        return super().parse_known_args(args, namespace)


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="recipe", required=True, metavar="VERB", parser_class=_Verb)
    for name, what in VERBS.items():
        verbs.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".").verb = name


def run(args: argparse.Namespace) -> int:
    return _module(args.recipe).run(args)


def _module(verb: str):
    return importlib.import_module(f"launch.recipes.{verb}")
