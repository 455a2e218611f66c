"""Folders of a corpus, walked so that nothing in them is passed over unread."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from model.errors import UserError


def files_below(folder: Path, suffixes: Collection[str] = ("",), depth: int | None = None) -> list[Path]:
    """Files whose names end in one of `suffixes`, by path; at most `depth` folders down (0: in the folder itself).

    UserError for a folder that cannot be read.
    """
    endings = tuple(suffixes)
    found = [Path(at, name) for at, names in walked(folder, depth) for name in names if name.endswith(endings)]
    return sorted(found)


def walked(folder: Path, depth: int | None = None) -> Iterator[tuple[str, list[str]]]:
    """(folder, names of its files) for it and those below, in the order of names. Links to folders are followed, but
    not around in circles. UserError for a folder that cannot be read.
    """
    yield from _walked(str(folder), depth, ())


def _walked(folder: str, depth: int | None, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, list[str]]]:
    files, folders = [], []
    try:
        there = os.stat(folder)
        if (there.st_dev, there.st_ino) in above:
            return
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                (folders if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}; mend its rights, or leave it out") from None
    yield folder, files
    if depth is None or depth > 0:
        for name in folders:
            inside = os.path.join(folder, name)
            yield from _walked(inside, None if depth is None else depth - 1, (*above, (there.st_dev, there.st_ino)))
