"""Frames of an MP3 (ISO 11172-3, 13818-3, layer III): whether the file is as long as the decoder takes it to be.

An MP3 declares its length, if at all, in a first frame without sound (Xing's, also called Info), and the decoder reads
no further. Without one it guesses from the size and the first bit rate. So of files that were joined, and of those of
a changing bit rate without such a frame, the end would be lost.
"""

from __future__ import annotations

import io
import struct
from typing import BinaryIO, NamedTuple

RATES = (44_100, 48_000, 32_000)  # Hz, of MPEG 1; half and a quarter in MPEG 2 and 2.5
KILOBITS = (
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG 2 and 2.5
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG 1
)
DECODER_DELAY = 3 * 1152  # samples: what encoders and decoders add and cut at the ends
LOOK = 1 << 16  # bytes in which the first frame, or the next one behind rubbish, must begin
FRAMES_AND_BYTES = 3  # flags of a Xing header that declares both
SLACK = 4096  # bytes: less than is heard; encoders do not agree on what they count


class Frame(NamedTuple):
    """What the four bytes at a frame's head tell."""

    length: int  # bytes
    samples: int
    tag: int  # bytes from its head to a Xing header


def what_mp3_lacks(stream: BinaryIO, samples: int) -> tuple[str, str]:
    """Reason and one line for an MP3 of which the decoder's `samples` are not all, or not all there; else empty."""
    size = stream.seek(0, io.SEEK_END)
    first = _next_frame(stream, _after_tag(stream))
    if first is None:
        return "", ""
    position, frame = first
    stream.seek(position)
    head = stream.read(frame.tag + 16)
    if head[frame.tag : frame.tag + 4] in (b"Xing", b"Info"):
        flags, declared = struct.unpack(">I4xI", head[frame.tag + 4 : frame.tag + 16])
        have = size - position
        if flags & FRAMES_AND_BYTES == FRAMES_AND_BYTES and have < declared - SLACK:
            return "truncated", f"{have:,} bytes of sound where the header declares {declared:,}"
        if flags & FRAMES_AND_BYTES == FRAMES_AND_BYTES and have <= declared + SLACK:
            return "", ""
    found = _count(stream, position)
    if found <= samples + DECODER_DELAY:
        return "", ""
    return "no-length", f"about {found:,} samples, of which {samples:,} are read: `ffmpeg -i IN -c copy OUT` mends it"


def _after_tag(stream: BinaryIO) -> int:
    """Where an ID3v2 tag ends."""
    stream.seek(0)
    head = stream.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))


def _next_frame(stream: BinaryIO, position: int) -> tuple[int, Frame] | None:
    """Place and head of the next frame that another one follows, or the end of the file."""
    stream.seek(position)
    data = stream.read(LOOK)
    at = data.find(b"\xff")
    while at >= 0:
        frame = _parse(data[at : at + 4])
        if frame is not None and (at + frame.length + 4 > len(data) or _parse(data[at + frame.length :][:4])):
            return position + at, frame
        at = data.find(b"\xff", at + 1)
    return None


def _count(stream: BinaryIO, position: int) -> int:
    """Samples of all frames from `position` on."""
    samples = 0
    while True:
        stream.seek(position)
        frame = _parse(stream.read(4))
        if frame is None:
            found = _next_frame(stream, position)
            if found is None:
                return samples
            position, frame = found
        samples += frame.samples
        position += frame.length


def _parse(head: bytes) -> Frame | None:
    """A frame of layer III, or None."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    version, kilobits, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or kilobits in (0, 15) or rate == 3:
        return None
    first, mono = version == 3, head[3] >> 6 == 3
    hertz = RATES[rate] >> (0 if first else 1 if version == 2 else 2)
    length = (144 if first else 72) * 1000 * KILOBITS[first][kilobits] // hertz + (head[2] >> 1 & 1)
    side = (17 if mono else 32) if first else (9 if mono else 17)
    return Frame(length, 1152 if first else 576, 4 + side)
