"""Utterances that stay out are counted by reason, named in a file, and bounded in number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from data_prep.convertible import NEEDS_FFMPEG, conversion
from data_prep.durable import canonical_json, encodable, write_durably
from data_prep.figures import counted
from model.errors import UserError

Note = dict[str, str]
"""key, reason (a slug to count by), message, and in the file also audio."""

QUARANTINE, DROPPED = "quarantine.jsonl", "dropped.jsonl"  # of a dataset directory: what cannot be used; is not wanted


class Refused(Exception):
    """An utterance that stays out. `dropped`: by a limit the person set, so it does not count as bad."""

    def __init__(self, reason: str, message: str, dropped: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.dropped = dropped


def by_reason(notes: Iterable[Note]) -> dict[str, int]:
    return dict(Counter(note["reason"] for note in notes))


def reasons_of(notes: Iterable[Note]) -> str:
    """The three reasons that most notes have, with their numbers, for a message; and what to do, where one is plain."""
    listed = Counter(by_reason(notes)).most_common(3)
    mend = f"; {conversion()} converts one" if NEEDS_FFMPEG in dict(listed) else ""
    return ", ".join(f"{reason} {count:,}" for reason, count in listed) + mend


def write_notes(path: Path, notes: Iterable[Note]) -> None:
    """One line for each, by key; no file where there is none."""
    lines = [canonical_json(_writable(note)) + b"\n" for note in sorted(notes, key=lambda note: note["key"])]
    if lines:
        write_durably(path, b"".join(lines))
    else:
        path.unlink(missing_ok=True)


def require_few(
    notes: list[Note], total: int, max_bad: float, path: Path, before: int = 0, stopped: bool = False
) -> None:
    """UserError if more than the fraction `max_bad` of `total` utterances are in `notes`, which are then at `path`.

    `before`: as many more were found before, in another part of the same `total`. `stopped`: not all were looked at.
    """
    allowed, found = int(max_bad * total), len(notes) + before
    if found <= allowed:
        return
    write_notes(path, notes)
    reasons = reasons_of(notes)
    what = f"{found:,} of {counted(total, 'utterance')} cannot be used ({reasons})"
    if stopped:
        what = f"stopped after {counted(found, 'bad utterance')} ({reasons}) of {total:,}"
    raise UserError(f"{what}, --max-bad {max_bad:g} allows {allowed:,}; see {path}, mend them or raise --max-bad")


def _writable(note: Note) -> Note:
    return {name: encodable(value) for name, value in note.items()}
