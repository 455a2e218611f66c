"""Refused utterances: counted by reason, listed in a file, bounded in number; and how to convert recordings that
libsndfile cannot read, whose format is known by their first bytes."""

import os
import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from data_prep.durable import canonical_json, encodable, write_durably
from model.errors import UserError, counted

Note = dict[str, str]  # key, reason (to count by), message, and in the file also audio
QUARANTINE, DROPPED = "quarantine.jsonl", "dropped.jsonl"  # of a dataset directory: unusable; outside the limits
NEEDS_FFMPEG = "needs-ffmpeg"  # the reason such recordings are counted by
EMPTY_TEXT = "no-text"  # the reason of empty transcripts
TO_KEEP_EMPTY = "--allow-empty keeps recordings in which nothing is said"
CONVERTIBLE = ("mp4", "m4a", "m4b", "aac", "mov", "3gp", "wma", "webm", "mkv", "mka", "amr", "avi")
FIRST_BYTES = (  # offset, bytes, format
    *((4, box, "MP4 or M4A") for box in (b"ftyp", b"moov", b"mdat", b"wide")),  # behind the box's length
    (0, b"\x1a\x45\xdf\xa3", "WebM or Matroska"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA"),
    (0, b"#!AMR", "AMR"),
    (8, b"AVI ", "AVI"),
)


class Refused(Exception):
    """An utterance that is left out. `dropped`: by a limit that was asked for, so it does not count as bad."""

    def __init__(self, reason: str, message: str, dropped: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.dropped = dropped


def by_reason(notes: Iterable[Note]) -> dict[str, int]:
    return dict(Counter(note["reason"] for note in notes))


def reasons_of(notes: Iterable[Note]) -> str:
    """The three most frequent reasons with their counts, for a message, and how to convert recordings, or keep those
    with empty transcripts."""
    listed = Counter(by_reason(notes)).most_common(3)
    mend = f"; {conversion()} converts one" if NEEDS_FFMPEG in dict(listed) else ""
    mend += f"; {TO_KEEP_EMPTY}" if EMPTY_TEXT in dict(listed) else ""
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
    `before`: bad ones in an earlier part of the same `total`. `stopped`: not all were checked."""
    allowed, bad = int(max_bad * total), len(notes) + before
    if bad <= allowed:
        return
    write_notes(path, notes)
    problem = f"{bad:,} of {counted(total, 'utterance')} cannot be used ({reasons_of(notes)})"
    if stopped:
        problem = f"stopped after {counted(bad, 'bad utterance')} ({reasons_of(notes)}) of {total:,}"
    raise UserError(f"{problem}, --max-bad {max_bad:g} allows {allowed:,}; see {path}, mend them or raise --max-bad")


def conversion(name: str = "IN.mp4") -> str:
    """The command that makes a WAV of it."""
    base = os.path.basename(name)
    return f"ffmpeg -i {shlex.quote(base)} -ar 16000 -ac 1 {shlex.quote(os.path.splitext(base)[0] + '.wav')}"


def why_unreadable(stream: BinaryIO, size: int, error: str) -> tuple[str, str]:
    """Reason and message for a recording of `size` bytes that soundfile refused with `error`."""
    stream.seek(0)
    head = stream.read(16)
    kind = next((name for offset, first, name in FIRST_BYTES if head.startswith(first, offset)), "")
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # ADTS: the sync word, and no layer of MPEG audio
        kind = kind or "AAC"
    if not kind:
        return "unreadable", f"{size:,} bytes that soundfile cannot open: {error}"
    name = getattr(stream, "name", "")  # of a file on disk alone
    command = conversion(os.fspath(name)) if name else conversion()
    return NEEDS_FFMPEG, f"{kind}, which is not read; convert it: {command}"
