"""WAV, AIFF, Ogg and MP3 files that were cut off, which libsndfile reads as shorter ones without an error.

FLAC finds its own cuts when it is decoded. An MP3 (ISO 11172-3, 13818-3, layer III) declares its length, if at all, in
a first frame without sound (Xing's, also called Info), and the decoder reads no further. Without one it guesses from
the size and the first bit rate. So the end would be lost of joined files, and of a variable bit rate without such a
frame."""

import io
import struct
from typing import BinaryIO, NamedTuple

MAX_OGG_PAGE = 65_307  # bytes
LAST_PAGE = 4  # flag of an Ogg stream's end
MAX_CHUNKS = 1000  # before the sound: real files have a few, a file of zeros is one empty chunk after another
STREAMED = 0x7FFF_0000  # lengths from here on, and 0, are what ffmpeg and sox write to a pipe: not known
RATES = (44_100, 48_000, 32_000)  # Hz, of MPEG 1; half and a quarter in MPEG 2 and 2.5
KILOBITS = (
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG 2 and 2.5
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG 1
)
DECODER_DELAY = 3 * 1152  # samples: what encoders and decoders add and cut at the ends
LOOK = 1 << 16  # bytes in which the first frame, or the next one behind rubbish, must begin
FRAMES_AND_BYTES = 3  # flags of a Xing header that declares both
SLACK = 4096  # bytes: inaudible; encoders do not agree on what they count


def what_is_cut_off(stream: BinaryIO) -> str:
    """One line on what is missing of the sound that the headers of a WAV, AIFF or Ogg file declare, else empty."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        return _cut_chunk(stream, size, "<4sI", b"data")
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return _cut_chunk(stream, size, ">4sI", b"SSND")
    if head[:4] != b"OggS":
        return ""
    stream.seek(max(0, size - MAX_OGG_PAGE))
    tail = stream.read()
    flags = tail.rfind(b"OggS") + 5
    return "" if 5 <= flags < len(tail) and tail[flags] & LAST_PAGE else "the Ogg stream has no last page"


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


def what_mp3_lacks(stream: BinaryIO, samples: int) -> tuple[str, str]:
    """Reason and one line for an MP3 that is cut off, or has more than the decoder's `samples`; else empty."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    tag = stream.read(10)
    sound = 0
    if tag[:3] == b"ID3" and len(tag) == 10:
        sound = 10 + sum((byte & 127) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
    first = _next_frame(stream, sound)
    if first is None:
        return "", ""
    position, frame = first
    stream.seek(position)
    head = stream.read(frame.tag + 16)
    if head[frame.tag : frame.tag + 4] in (b"Xing", b"Info"):
        flags, declared = struct.unpack(">I4xI", head[frame.tag + 4 : frame.tag + 16])
        have = size - position
        if flags & FRAMES_AND_BYTES == FRAMES_AND_BYTES and have <= declared + SLACK:
            cut = have < declared - SLACK
            return ("truncated", f"{have:,} bytes of sound where the header declares {declared:,}") if cut else ("", "")
    total = 0
    while True:  # over all frames
        stream.seek(position)
        frame = _parse(stream.read(4))
        if frame is None:
            following = _next_frame(stream, position)
            if following is None:
                break
            position, frame = following
        total += frame.samples
        position += frame.length
    if total <= samples + DECODER_DELAY:
        return "", ""
    return "no-length", f"about {total:,} samples, of which {samples:,} are read: `ffmpeg -i IN -c copy OUT` mends it"


class _Frame(NamedTuple):
    length: int  # bytes
    samples: int
    tag: int  # bytes from its head to a Xing header


def _next_frame(stream: BinaryIO, position: int) -> tuple[int, _Frame] | None:
    """Position and head of the next frame that another one, or the end of the file, follows."""
    stream.seek(position)
    data = stream.read(LOOK)
    at = data.find(b"\xff")
    while at >= 0:
        frame = _parse(data[at : at + 4])
        if frame is not None and (at + frame.length + 4 > len(data) or _parse(data[at + frame.length :][:4])):
            return position + at, frame
        at = data.find(b"\xff", at + 1)
    return None


def _parse(head: bytes) -> _Frame | None:
    """A frame of layer III, or None."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    version, kilobits, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or kilobits in (0, 15) or rate == 3:
        return None
    mpeg1, mono = version == 3, head[3] >> 6 == 3
    hertz = RATES[rate] >> (0 if mpeg1 else 1 if version == 2 else 2)
    length = (144 if mpeg1 else 72) * 1000 * KILOBITS[mpeg1][kilobits] // hertz + (head[2] >> 1 & 1)
    side = (17 if mono else 32) if mpeg1 else (9 if mono else 17)
    return _Frame(length, 1152 if mpeg1 else 576, 4 + side)
