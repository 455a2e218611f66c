"""Recordings that libsndfile cannot read: which format they are, by their first bytes, and how to convert them."""

import os
import shlex
from typing import BinaryIO

NEEDS_FFMPEG = "needs-ffmpeg"  # the reason such recordings are counted by
EXTENSIONS = ("mp4", "m4a", "m4b", "aac", "mov", "3gp", "wma", "webm", "mkv", "mka", "amr", "avi")
FIRST_BYTES = (  # offset, bytes, format
    *((4, box, "MP4 or M4A") for box in (b"ftyp", b"moov", b"mdat", b"wide")),  # behind the box's length
    (0, b"\x1a\x45\xdf\xa3", "WebM or Matroska"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA"),
    (0, b"#!AMR", "AMR"),
    (8, b"AVI ", "AVI"),
)


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
