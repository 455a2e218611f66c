"""Recordings that libsndfile cannot read: which format they are, by their first bytes, and how to convert them."""

from __future__ import annotations

import io
import os
import shlex
from typing import BinaryIO

NEEDS_FFMPEG = "needs-ffmpeg"  # the reason such recordings are counted by
EXTENSIONS = ("mp4", "m4a", "m4b", "aac", "mov", "3gp", "wma", "webm", "mkv", "mka", "amr", "avi")
"""Of files that are likely such recordings."""
BEGINNINGS = {  # first bytes: format
    b"\x1a\x45\xdf\xa3": "WebM or Matroska",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "WMA",
    b"#!AMR": "AMR",
}
BOXES = (b"ftyp", b"moov", b"mdat", b"wide")  # one of which begins an MP4 or QuickTime file, after its length


def format_of(head: bytes) -> str:
    """MP4, AAC ..., by the first bytes of a file; empty for none of these."""
    if head[4:8] in BOXES:
        return "MP4 or M4A"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # ADTS: the sync word, and no layer of MPEG audio
        return "AAC"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "AVI"
    return next((name for beginning, name in BEGINNINGS.items() if head.startswith(beginning)), "")


def conversion(name: str = "IN.mp4") -> str:
    """The command that makes a WAV of it."""
    base = os.path.basename(name)
    return f"ffmpeg -i {shlex.quote(base)} -ar 16000 -ac 1 {shlex.quote(os.path.splitext(base)[0] + '.wav')}"


def why_unreadable(stream: BinaryIO, size: int, error: str) -> tuple[str, str]:
    """Reason and message for a recording of `size` bytes that soundfile refused with `error`."""
    stream.seek(0)
    kind = format_of(stream.read(16))
    if not kind:
        return "unreadable", f"{size:,} bytes that soundfile cannot open: {error}"
    name = stream.name if isinstance(stream, io.FileIO) else None
    command = conversion(os.fspath(name)) if isinstance(name, str | os.PathLike) else conversion()
    return NEEDS_FFMPEG, f"{kind}, which is not read; convert it: {command}"
