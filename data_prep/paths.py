"""Paths as people write them: `~` and variables expanded, a missing one explained, the space on its disk."""

import os
import re
import shutil
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from data_prep.addresses import is_remote
from model.errors import UserError, closest

LOOKED_AT = 1000  # names of a folder that are compared
VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")


def expand_path(text: str) -> str:
    """`text` with `~`, `~user`, `$NAME` and `${NAME}` replaced by what they stand for. An address (s3://...) stays as
    it is, as does a hub id, which has neither. UserError for a variable that is not set and for a user who does not
    exist."""
    if is_remote(text):
        return text
    for name in (match[1] or match[2] for match in VARIABLE.finditer(text)):
        if not os.environ.get(name):
            raise UserError(f"${name} is not set; set it, or write the whole path")
    expanded = os.path.expanduser(os.path.expandvars(text))
    if text.startswith("~") and expanded.startswith("~"):
        user = text.partition("/")[0]
        raise UserError(f"{user} is no user's home here; write the whole path, or ./{user} for a folder of that name")
    return expanded


def _as_typed(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int | float) else value


# For a recipe's text: a number or `true` is taken as the text that was typed (a folder may be named 010).
AS_TYPED = BeforeValidator(_as_typed)
# A recipe's path, address or hub id, read by `expand_path`; not empty.
LocalPath = Annotated[str, Field(min_length=1), AfterValidator(expand_path), AS_TYPED]


def one_or_more(item: Any, at_least: int = 0) -> BeforeValidator:
    """Takes a single value for a list of one, as a recipe may write it."""
    return BeforeValidator(
        lambda value: (value,) if isinstance(value, str | int | float) else value,
        json_schema_input_type=Annotated[tuple[item, ...], Field(min_length=at_least)] | item,
    )


def no_such(path: str | os.PathLike[str], otherwise: str) -> str:
    """ "there is no digitz/train.csv; did you mean digits/train.csv?", of a path that does not exist. Where no name is
    alike, the nearest folder that exists and `otherwise`, which says what to give."""
    missing = Path(path)
    while not os.path.lexists(missing.parent):
        missing = missing.parent
    folder, names = missing.parent, []
    with suppress(OSError):
        names = [entry.name for entry in islice(os.scandir(folder), LOOKED_AT) if entry.name != missing.name]
    near = closest(missing.name, names)
    if near:
        meant = folder / near / Path(path).relative_to(missing)
        return f"there is no {path}; did you mean {meant if meant.exists() else folder / near}?"
    where = "the working folder" if folder == Path() else folder
    is_link = os.path.lexists(missing)
    why = f"{missing} is a link to nothing" if is_link else f"{where} has no {missing.name}"
    return f"there is no {path}{f' ({why})' if is_link or missing != Path(path) else ''}; {otherwise}"


def free_bytes(out: Path) -> int:
    """On the disk that `out`, which need not exist yet, is on."""
    return shutil.disk_usage(nearest_folder(out)).free


def nearest_folder(out: Path) -> Path:
    """`out`, or the first above it that exists."""
    return next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
