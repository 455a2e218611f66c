"""What arguments of several verbs of `slam-asr prep` mean."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from data_prep.addresses import is_remote
from data_prep.cores import usable_cores
from model.errors import UserError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def path_or_address(text: str) -> Path | str:
    """An address as text, which a Path would change, a path as a path."""
    return text.rstrip("/") if is_remote(text) else local_path(text)


def local_path(text: str) -> Path:
    """A path that is not empty: of nothing, as a variable that is not set gives, `Path` makes the working folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty; is a variable not set?")
    return Path(text)


def local_folder(text: str) -> Path:
    """A folder of this machine."""
    if is_remote(text):
        raise argparse.ArgumentTypeError(f"{text} is an address; write to a folder here, then slam-asr prep publish")
    return local_path(text)


def require_another(source: Path | str, out: Path | str, option: str = "OUT") -> None:
    """UserError if what is to be written is what is to be read."""
    if isinstance(source, Path) and isinstance(out, Path) and source.resolve() == out.resolve():
        raise UserError(f"{option} {out} is the source itself; give another place to write to")


def parse_bytes(text: str) -> int:
    """500MB, 2GiB, 1000000; 0 for nothing. UserError for anything else."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmg]i?|)b?", text.strip().lower())
    if text and (not found or float(found[1]) * UNITS[found[2]] < 1):
        raise UserError(f"{text!r} is no number of bytes; write 500MB or 2GB")
    return int(float(found[1]) * UNITS[found[2]]) if found else 0


def cores() -> int:
    """That this process may use."""
    return usable_cores()
