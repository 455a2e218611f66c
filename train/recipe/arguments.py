"""Command lines with recipes: an argparse parser whose errors are one line with the nearest known name or key."""

import argparse
import itertools
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from model.errors import UserError, hint

EXAMPLE = "recipes/librispeech_tinyllama.yaml"
CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """Raises UserError where argparse prints its usage and exits; options cannot be abbreviated."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        if choice := CHOICE.search(message):
            known = [name.strip("' ") for name in choice[2].split(",")]
            what = message[: choice.start()].removeprefix("argument ").rstrip(": ")
            raise UserError(f"{what} {choice[1]!r} is not known{hint(choice[1], known)}; known: {', '.join(known)}")
        _, required, names = message.partition("arguments are required: ")
        if required and "RECIPE" in names.split(", "):
            before = [a for a in self._actions if not a.option_strings and a.dest != "overrides"]
            command = " ".join([self.prog, *("RECIPE.yaml" if a.dest == "recipe" else a.dest.upper() for a in before)])
            raise UserError(f"no recipe is given; write `{command}`, {EXAMPLE} is one")
        raise UserError(f"{message}; `{self.prog} --help` says more")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Options may stand between `section.key=value` and others of a list; not before a verb that has verbs."""
        if self._subparsers is not None:
            return super().parse_args(args, namespace)
        return self.parse_intermixed_args(args, namespace)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = sys.argv[1:] if args is None else args
        if self._subparsers is None:
            self._require_known(list(itertools.takewhile("--".__ne__, given)))
        found, rest = super().parse_known_args(args, namespace)
        self._require_known(rest)
        return found, rest

    def _require_known(self, arguments: Sequence[str]) -> None:
        """UserError for the first unknown option, with the nearest known ones, or the recipe's key of that name."""
        options = [name for action in self._actions for name in action.option_strings]
        takes_recipe = any(action.dest == "overrides" for action in self._actions)
        form = re.compile("--?[A-Za-z]{2}" if takes_recipe else "--")
        words = [(i, word) for i, word in enumerate(arguments) if form.match(word)]
        i, word = next(((i, word) for i, word in words if word.partition("=")[0] not in options), (0, ""))
        if not word:
            return
        unknown, _, value = word.partition("=")
        message = f"{unknown} is no option of `{self.prog}`"
        if takes_recipe and (keys := _keys_of(unknown)):
            after = "".join(arguments[i + 1 : i + 2])
            value = value or (after if "=" not in after and not after.startswith("--") else "") or "VALUE"
            written = " or ".join(f"{key}={value}" for key in keys)
            raise UserError(f"{message}; it is a key of the recipe, written {written}")
        longer = [option for option in options if option.startswith(unknown)]
        raise UserError(message + (f", did you mean {' or '.join(longer)}?" if longer else hint(unknown, options)))


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Adds the recipe, its overrides, and how it is trained."""
    add = parser.add_argument
    add("recipe", metavar="RECIPE", help=f"YAML file, such as {EXAMPLE}")
    add("overrides", nargs="*", metavar="section.key=value", help="values that replace the recipe's")
    add("--deepspeed", default="zero0", metavar="JSON", help="a file, or a name in ds_configs/ (zero0)")
    add("--allow-changes", action="store_true", help="continue although recipe, data or models have changed")


def _keys_of(option: str) -> list[str]:
    """The keys of a recipe that an option names, as a whole or by their last part."""
    from train.recipe.config import Config
    from train.recipe.kinds import dotted_names

    name, keys = re.sub("[-.]", "_", option.lstrip("-")).lower(), dotted_names(Config)
    whole = [key for key in keys if key.replace(".", "_") == name]
    return whole or [key for key in keys if key.rpartition(".")[2] == name]
