"""Command lines whose mistakes are one line with the nearest name, as all of ours are."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NoReturn

from model.errors import UserError

CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """Raises UserError where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        choice = CHOICE.search(message)
        if choice:
            known = [name.strip("' ") for name in choice[2].split(",")]
            what = message[: choice.start()].removeprefix("argument ").rstrip(": ")
            raise UserError(f"{what} {choice[1]!r} is not known{nearest(choice[1], known)}; known: {', '.join(known)}")
        raise UserError(f"{message}; `{self.prog} --help` says more")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Of this parser or of a verb's own below it: that one knows which option was meant."""
        found, rest = super().parse_known_args(args, namespace)
        for unknown in (item.partition("=")[0] for item in rest if item.startswith("--")):
            options = [name for action in self._actions for name in action.option_strings]
            raise UserError(f"{unknown} is no option of `{self.prog}`{nearest(unknown, options)}")
        return found, rest


def nearest(name: str, known: Iterable[str]) -> str:
    """', did you mean ...?' or nothing."""
    near = get_close_matches(name, list(known), n=1)
    return f", did you mean {near[0]}?" if near else ""
