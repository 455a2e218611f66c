"""An argparse parser whose errors are one line with the nearest known name."""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from model.errors import UserError, hint
from train.recipe.arguments import no_option, without_recipe

CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """Raises UserError where argparse prints its usage and exits; options cannot be abbreviated."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        choice = CHOICE.search(message)
        if choice:
            known = [name.strip("' ") for name in choice[2].split(",")]
            what = message[: choice.start()].removeprefix("argument ").rstrip(": ")
            raise UserError(f"{what} {choice[1]!r} is not known{hint(choice[1], known)}; known: {', '.join(known)}")
        raise UserError(without_recipe(self, message) or f"{message}; `{self.prog} --help` says more")

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
        """UserError for the first unknown option, with the nearest known ones."""
        names = [name for action in self._actions for name in action.option_strings]
        for unknown in (item.partition("=")[0] for item in arguments if item.startswith("--")):
            if unknown not in names:
                if any(action.dest == "overrides" for action in self._actions):
                    raise UserError(no_option(self.prog, unknown, names, arguments))
                longer = [name for name in names if name.startswith(unknown)]
                meant = f", did you mean {' or '.join(longer)}?" if longer else hint(unknown, names)
                raise UserError(f"{unknown} is no option of `{self.prog}`{meant}")
