"""Options of several verbs of `slam-asr prep`, what their values mean, and the line that a verb ends with."""

import argparse
import re
from pathlib import Path
from typing import Any

from data_prep.addresses import is_remote
from data_prep.cores import usable_cores
from data_prep.figures import in_hours
from data_prep.refusals import DROPPED, EMPTY_TEXT, QUARANTINE, TO_KEEP_EMPTY
from model.errors import UserError, counted

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
VERIFY_HELP = "of audio copied as it is, decode all (full)"
EMPTY_HELP = "keep recordings whose transcript is empty: nothing is said, and nothing is to be answered"
SHARED: dict[str, dict[str, Any]] = {
    "--workers": {"type": int, "default": usable_cores(), "metavar": "N", "help": "processes (all cores)"},
    "--max-bad": {"type": float, "default": 0.01, "metavar": "F", "help": "fraction that may be bad (0.01)"},
    "--seed": {"type": int, "default": 0, "help": "of the shuffle, the split or the choice (0)"},
    "--allow-empty": {"action": "store_true", "help": EMPTY_HELP},
    "--overwrite": {"action": "store_true", "help": "replace what other input or options made"},
    "--min-seconds": {"type": float, "default": 0.0, "metavar": "S", "help": "drop shorter utterances"},
    "--verify": {"choices": ("full", "header"), "default": "full", "help": VERIFY_HELP},
    "--no-verify": {"action": "store_const", "const": "header", "dest": "verify", "help": "short for --verify header"},
}


def add_shared(parser: Any, *options: str) -> None:
    """Adds options of SHARED to a parser or a group of one."""
    for option in options:
        parser.add_argument(option, **SHARED[option])


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
    parts = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmg]i?|)b?", text.strip().lower())
    if text and (not parts or float(parts[1]) * UNITS[parts[2]] < 1):
        raise UserError(f"{text!r} is no number of bytes; write 500MB or 2GB")
    return int(float(parts[1]) * UNITS[parts[2]]) if parts else 0


def print_totals(out: Path, totals: Any, already_done: str, shards: str = "shard") -> None:
    """Prints what `out` holds; `totals` are those of a build, of a copy or of tars that were indexed."""
    if totals.already_built:
        print(f"{out} {already_done}; nothing done")
    if totals.kept_shards:
        print(f"of {counted(totals.shards, shards)}, {totals.kept_shards:,} finished before and kept")
    held = f"{counted(totals.utterances, 'utterance')}, {in_hours(totals.seconds)}, {counted(totals.shards, shards)}"
    bad, dropped = listed(getattr(totals, "bad", {})), listed(totals.dropped)
    keep = f"; {TO_KEEP_EMPTY}" if EMPTY_TEXT in getattr(totals, "bad", {}) else ""
    bad, dropped = bad and f"; bad: {bad} (see {QUARANTINE}{keep})", dropped and f"; dropped: {dropped} (see {DROPPED})"
    print(f"{out}: {held}, {totals.bytes / 1e6:,.1f} MB{bad}{dropped}")


def listed(counts: dict[str, int]) -> str:
    """'reason 3, other 1', by name."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
