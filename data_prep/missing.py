"""What to say of a path that does not exist: the path as typed, and the one that was probably meant."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from model.errors import closest

LOOKED_AT = 1000  # names of a folder


def no_such(path: str | os.PathLike[str], otherwise: str) -> str:
    """ "there is no digitz/train.csv; did you mean digits/train.csv?", of a path that does not exist.

    Where no name is alike, the nearest folder that exists and `otherwise`, which says what to give.
    """
    missing = Path(path)
    while not os.path.lexists(missing.parent):
        missing = missing.parent
    folder, rest = missing.parent, Path(path).relative_to(missing)
    near = closest(missing.name, _others(folder, missing.name))
    if near:
        meant = folder / near / rest
        return f"there is no {path}; did you mean {meant if meant.exists() else folder / near}?"
    where = "the working folder" if folder == Path() else folder
    why = f"{missing} is a link to nothing" if os.path.lexists(missing) else f"{where} has no {missing.name}"
    told = f" ({why})" if missing != Path(path) or os.path.lexists(missing) else ""
    return f"there is no {path}{told}; {otherwise}"


def _others(folder: Path, name: str) -> list[str]:
    try:
        return [entry.name for entry in islice(os.scandir(folder), LOOKED_AT) if entry.name != name]
    except OSError:
        return []
