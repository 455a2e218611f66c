"""Refused utterances: counted by reason, listed in a file, bounded in number."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from data_prep.convertible import NEEDS_FFMPEG, conversion
from data_prep.durable import canonical_json, encodable, write_durably
from data_prep.figures import counted
from model.errors import UserError

Note = dict[str, str]  # key, reason (to count by), message, and in the file also audio
QUARANTINE, DROPPED = "quarantine.jsonl", "dropped.jsonl"  # of a dataset directory: unusable; outside the limits


class Refused(Exception):
    """An utterance that is left out. `dropped`: by a limit that was asked for, so it does not count as bad."""

    def __init__(self, reason: str, message: str, dropped: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.dropped = dropped


def by_reason(notes: Iterable[Note]) -> dict[str, int]:
    return dict(Counter(note["reason"] for note in notes))


def reasons_of(notes: Iterable[Note]) -> str:
    """The three most frequent reasons with their counts, for a message, and the command that converts recordings."""
    listed = Counter(by_reason(notes)).most_common(3)
    mend = f"; {conversion()} converts one" if NEEDS_FFMPEG in dict(listed) else ""
    return ", ".join(f"{reason} {count:,}" for reason, count in listed) + mend


def write_notes(path: Path, notes: Iterable[Note]) -> None:
    """One line for each, by key; no file where there is none."""
    lines = []
    for note in sorted(notes, key=lambda note: note["key"]):
        lines.append(canonical_json({name: encodable(value) for name, value in note.items()}) + b"\n")
    if lines:
        write_durably(path, b"".join(lines))
    else:
        path.unlink(missing_ok=True)


def require_few(
    notes: list[Note], total: int, max_bad: float, path: Path, before: int = 0, stopped: bool = False
) -> None:
    """UserError if more than the fraction `max_bad` of `total` utterances are in `notes`, which are then at `path`.
    `before`: found in an earlier part of the same `total`. `stopped`: not all were looked at."""
    allowed, bad = int(max_bad * total), len(notes) + before
    if bad <= allowed:
        return
    write_notes(path, notes)
    problem = f"{bad:,} of {counted(total, 'utterance')} cannot be used ({reasons_of(notes)})"
    if stopped:
        problem = f"stopped after {counted(bad, 'bad utterance')} ({reasons_of(notes)}) of {total:,}"
    raise UserError(f"{problem}, --max-bad {max_bad:g} allows {allowed:,}; see {path}, mend them or raise --max-bad")
