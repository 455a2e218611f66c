"""WAV, AIFF and Ogg files that were cut off: they have no checksum over their length, and read shorter without a word.

FLAC finds its own cuts when it is decoded; of MP3, mp3.py tells.
"""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

MAX_OGG_PAGE = 65_307  # bytes
LAST_PAGE = 4  # the flag of an Ogg stream's end
MAX_CHUNKS = 1000  # before the sound: real files have a few, a file of zeros is one empty chunk after another
STREAMED = 0x7FFF_0000  # lengths from here on, and 0, are what ffmpeg and sox write to a pipe: not known


def what_is_cut_off(stream: BinaryIO) -> str:
    """One line on what is missing of the sound that the headers declare; empty if nothing is."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        return _cut_chunk(stream, size, "<4sI", b"data")
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return _cut_chunk(stream, size, ">4sI", b"SSND")
    return _cut_ogg(stream, size) if head[:4] == b"OggS" else ""


def _cut_chunk(stream: BinaryIO, size: int, header: str, wanted: bytes) -> str:
    position = 12
    for _ in range(MAX_CHUNKS):
        if position + 8 > size:
            return ""
        stream.seek(position)
        name, length = struct.unpack(header, stream.read(8))
        have = size - position - 8
        if name == wanted:
            cut = 0 < length < STREAMED and length > have
            return f"{have:,} bytes of sound where the header declares {length:,}" if cut else ""
        position += 8 + length + (length & 1)
    return f"no sound in its first {MAX_CHUNKS:,} chunks"


def _cut_ogg(stream: BinaryIO, size: int) -> str:
    stream.seek(max(0, size - MAX_OGG_PAGE))
    tail = stream.read()
    flags = tail.rfind(b"OggS") + 5
    return "" if 5 <= flags < len(tail) and tail[flags] & LAST_PAGE else "the Ogg stream has no last page"
