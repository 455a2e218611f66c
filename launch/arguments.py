"""Command lines whose mistakes are one line with the nearest name, as all of ours are."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any, NoReturn

from model.errors import UserError, hint
from train.arguments import no_option, without_recipe

CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """Raises UserError where argparse would print its usage and exit."""

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
        """Of this parser or of a verb's own below it: that one knows which option was meant."""
        found, rest = super().parse_known_args(args, namespace)
        unknown = next((item.partition("=")[0] for item in rest if item.startswith("--")), "")
        if unknown:
            options = [name for action in self._actions for name in action.option_strings]
            if any(action.dest == "overrides" for action in self._actions):
                raise UserError(no_option(self.prog, unknown, options, sys.argv[1:] if args is None else args))
            raise UserError(f"{unknown} is no option of `{self.prog}`{hint(unknown, options)}")
        return found, rest
