"""`slam-asr recipe`: new.py writes a recipe for given data and models, schema.py its JSON schema for editors.

choices.py chooses what to train with, by hours of data and by the LLM; text.py writes it as commented YAML.
"""

from __future__ import annotations

import argparse

from launch.recipes import new, schema

VERBS = {
    "new": (new, "write a commented recipe that fits given data and models"),
    "schema": (schema, "print the JSON schema of recipes, by which an editor completes and checks them"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="recipe", required=True, metavar="VERB")
    for name, (module, what) in VERBS.items():
        module.configure(verbs.add_parser(name, help=what, description=what[0].upper() + what[1:] + "."))


def run(args: argparse.Namespace) -> int:
    return VERBS[args.recipe][0].run(args)
