"""Paths as people write them in a recipe: `~` and variables are expanded, where a shell had no chance to."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Annotated

from data_prep.addresses import is_remote
from model.errors import UserError

VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")


def expand_path(text: str) -> str:
    """`text` with `~`, `~user`, `$NAME` and `${NAME}` replaced by what they stand for.

    An address (s3://...) stays as it is, as does a hub id, which has neither. UserError for a variable that is not set
    and for a user who does not exist.
    """
    if is_remote(text):
        return text

    def value(name: re.Match[str]) -> str:
        variable = name[1] or name[2]
        if not os.environ.get(variable):
            raise UserError(f"${variable} is not set; set it, or write the whole path")
        return os.environ[variable]

    expanded = os.path.expanduser(VARIABLE.sub(value, text))
    if text.startswith("~") and expanded.startswith("~"):
        user = text.partition("/")[0]
        raise UserError(f"{user} is no user's home here; write the whole path, or ./{user} for a folder of that name")
    return expanded


@dataclass(frozen=True)
class PathRule:
    """Marks a text field of a recipe as a path, to be read by `expand_path`; it may not be empty."""

    says: str = "not empty"

    def holds(self, value: str) -> bool:
        return len(value) > 0


LocalPath = Annotated[str, PathRule()]
"""A path, an address, or a hub id."""
