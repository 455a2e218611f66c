"""The folder of a run: which one may be it, and how its own small files are written.

A folder that holds data, or anything that is not a run's, is never trained in: a run removes and replaces files there.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.addresses import is_remote
from data_prep.durable import FULL, write_durably
from data_prep.shards.index import FORMAT, INDEX_NAME
from data_prep.shards.opening import UNFINISHED_NAME, read_document
from model.errors import TransientError, UserError

if TYPE_CHECKING:
    from train.recipe.config import Config

OF_A_RUN = {"LOCK", "config.yaml", "metrics.jsonl", "checkpoints", "slurm", "launch"}
"""Any of these marks a run's folder; `submit` and `launch` make the last two before training begins."""
MAY_BE_THERE = re.compile(r"\..*|lost\+found|.*\.(ya?ml|log|out|err)", re.IGNORECASE)
"""What else a new run's folder may hold: hidden files, the recipe itself, logs."""


def require_run_folder(config: Config) -> Path:
    """The run's folder, run.dir. UserError unless it is new, empty, or a run's."""
    given, data = config.run.dir, config.data
    if is_remote(given):
        raise UserError(f"run.dir is {given}, a run needs a folder on a disk; give one, and copy the run afterwards")
    folder = Path(given).resolve()
    for key, paths in {"train": data.train, "dev": data.dev, "write_features": [data.write_features]}.items():
        if any(path and not is_remote(path) and Path(path).resolve() == folder for path in paths):
            raise UserError(f"run.dir is {given}, which is data.{key} too; give another run.dir")
    for parent in (folder, *folder.parents):
        if _is_dataset(parent):
            inside = "" if parent == folder else f" lies in {parent}, which"
            raise UserError(f"run.dir {given}{inside} holds shards (it has {INDEX_NAME}); give another run.dir")
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    others = [name for name in names if not MAY_BE_THERE.fullmatch(name)]
    if others and not OF_A_RUN.intersection(names):
        shown = ", ".join(others[:3]) + (" ..." if len(others) > 3 else "")
        raise UserError(f"run.dir {given} holds {shown} and is no run; give another run.dir, or an empty folder")
    return Path(given)


def _is_dataset(folder: Path) -> bool:
    """Whether `slam-asr prep` made the folder, or is making it."""
    if (folder / UNFINISHED_NAME).exists():
        return True
    try:
        return (folder / INDEX_NAME).is_file() and read_document(folder / INDEX_NAME).get("format") == FORMAT
    except (UserError, OSError):  # somebody else's file of that name, or a folder that we may not look into
        return False


def write_file(path: Path, data: bytes) -> None:
    """`data` as the whole of `path`, on disk when this returns. TransientError, with path and size, if it cannot be."""
    try:
        write_durably(path, data)
    except OSError as error:
        todo = "make room there" if error.errno in FULL else "look at its rights and its disk"
        raise TransientError(
            f"cannot write {path} ({len(data):,} bytes): {error.strerror}; {todo}, and give the command again"
        ) from error
