"""Finds the recordings in a folder."""

import os
from collections import Counter
from pathlib import Path

from data_prep.audio.decode import EXTENSIONS
from data_prep.importers.parsing.files import walked
from model.errors import UserError, counted


def recordings_in(folder: str) -> tuple[list[str], str]:
    """The recordings in a folder and its subfolders, sorted, and a count of others: `2 other files (.txt 2)`. Hidden
    files are ignored. UserError for a folder that cannot be read, or holds no recordings."""
    paths, others = [], Counter[str]()
    for place, names in walked(Path(folder)):
        if any(part.startswith(".") for part in Path(place).relative_to(folder).parts):
            continue
        for name in names:
            extension = os.path.splitext(name)[1].lower()
            path = os.path.join(place, name)
            if name.startswith(".") or (os.path.exists(path) and not os.path.isfile(path)):  # pipes, sockets, devices
                continue
            if extension[1:] in EXTENSIONS:
                paths.append(path)
            else:
                others[extension or "no extension"] += 1
    kinds = ", ".join(f"{extension} {count:,}" for extension, count in others.most_common(3))
    rest = f"{counted(others.total(), 'other file')} ({kinds}{', ...' * (len(others) > 3)})" if others else ""
    if not paths:
        has = f"; it has {rest}" if rest else ""
        raise UserError(f"{folder} holds no recordings ({', '.join(EXTENSIONS)}){has}; give audio files")
    return sorted(paths), rest
