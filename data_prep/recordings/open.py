"""Where recordings lie, and how they are opened. `Utterance.part` says what of `Utterance.audio` is the recording:

| part | audio |
|---|---|
| (empty) | a local file, or an address that fsspec knows (s3://...) |
| bytes:OFFSET:LENGTH | a stretch of such a file: a member of a tar, an entry of a Kaldi ark |
| row:NUMBER:COLUMN | a Parquet file; rows are counted from 0, the column holds the file's bytes (or `{bytes, path}`) |
| pipe | a command, as Kaldi's `cmd |`: run without a shell, and only where the person allowed it |
| fault:REASON:MESSAGE | anything; the importer found that there is no recording to use, and says why |
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from data_prep.addresses import is_remote
from data_prep.audio.decode import AudioError, Source


@dataclass(frozen=True)
class Stretch:
    """A recording inside a local file."""

    path: str
    offset: int
    length: int

    def open(self) -> BinaryIO:
        """Its bytes as a file of their own; read as they are asked for."""
        return io.BufferedReader(_Window(self))


def open_source(audio: str, part: str = "", allow_pipes: bool = False) -> Source:
    """The recording, to be decoded. AudioError for a part that cannot be, OSError for what cannot be read."""
    kind, _, place = part.partition(":")
    if kind == "pipe":
        from data_prep.recordings.pipes import output_of

        return output_of(audio, allow_pipes)
    if kind == "row":
        from data_prep.recordings.parquet import recording_at

        number, _, column = place.partition(":")
        return recording_at(audio, _number(number, part), column)
    if kind == "fault":
        reason, _, message = place.partition(":")
        raise AudioError(reason, message)
    if kind not in ("", "bytes"):
        raise AudioError("bad-part", f"part {part[:60]!r} of a recording is not known")
    first, length = (_number(text, part) for text in place.split(":", 1)) if kind else (0, None)
    if is_remote(audio):
        from data_prep.recordings.remote import recording

        return recording(audio, first, length)
    _require_file(audio)
    return Stretch(audio, first, length) if length is not None else audio


def size_of(audio: str, part: str = "") -> int:
    """Bytes of the regular file or of the object, -1 where there is none (a pipe or a device is none)."""
    if part == "pipe":
        return 0
    if is_remote(audio):
        from data_prep.remote.objects import size

        return size(audio)
    try:
        found = os.stat(audio)
    except (OSError, ValueError):
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def remote_sizes(audios: Iterable[str]) -> dict[str, int]:
    """`size_of` each of those that are addresses, asked for in parallel."""
    addresses = sorted({audio for audio in audios if is_remote(audio)})
    if not addresses:
        return {}
    from data_prep.remote.objects import sizes

    return dict(zip(addresses, sizes(addresses), strict=True))


def read_all(source: Source) -> bytes:
    """All bytes of the recording."""
    if isinstance(source, bytes | bytearray):
        return bytes(source)
    if isinstance(source, str | Path):
        return Path(source).read_bytes()
    with source.open() as stream:
        return stream.read()


def length_of(source: Source) -> int:
    """Bytes of the recording itself."""
    if isinstance(source, bytes | bytearray):
        return len(source)
    if isinstance(source, str | Path):
        return os.stat(source).st_size
    with source.open() as stream:
        return stream.seek(0, io.SEEK_END)


class _Window(io.RawIOBase):
    """A stretch of a file, opened anew so that threads do not share a position."""

    def __init__(self, stretch: Stretch) -> None:
        self._descriptor = os.open(stretch.path, os.O_RDONLY | os.O_CLOEXEC)
        self._first, self._length, self._at = stretch.offset, stretch.length, 0
        if os.fstat(self._descriptor).st_size < stretch.offset + stretch.length:
            self.close()
            raise AudioError("truncated", f"the archive ends before byte {stretch.offset + stretch.length:,}")

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._length - self._at)]
        count = os.preadv(self._descriptor, [view], self._first + self._at) if len(view) else 0
        self._at += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence])
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def _number(text: str, part: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise AudioError("bad-part", f"part {part[:60]!r} of a recording is not as it must be")
    return int(text)


def _require_file(audio: str) -> None:
    if size_of(audio) < 0:
        raise FileNotFoundError(2, "there is no such file", audio)
