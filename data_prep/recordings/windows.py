"""Stretches of local files and of remote objects, read as files of their own."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import Any, BinaryIO

from data_prep.addresses import is_remote
from data_prep.audio.cuts import AudioError
from data_prep.remote.objects import read_bytes

FIRST_WINDOW_BYTES, LARGEST_WINDOW_BYTES = 128 << 10, 8 << 20  # of one request for a remote stretch


@dataclass(frozen=True)
class Stretch:
    """A recording inside a local file or a remote object, too large to be read before it is known what is wanted."""

    place: str
    offset: int
    length: int

    def open(self) -> BinaryIO:
        """Its bytes as a file; AudioError where a local file ends before them."""
        if is_remote(self.place):
            return io.BufferedReader(_RemoteWindow(self), FIRST_WINDOW_BYTES)
        return io.BufferedReader(_LocalWindow(self))


class _Window(io.RawIOBase):
    """`length` bytes that `read_at` reads by position."""

    def __init__(self, length: int) -> None:
        self.length, self._at = length, 0

    def read_at(self, position: int, view: memoryview) -> int:
        raise NotImplementedError

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self.length - self._at)]
        count = self.read_at(self._at, view) if len(view) else 0
        self._at += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.length}[whence])
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


class _LocalWindow(_Window):
    """Opens the file anew, so that threads do not share a position."""

    def __init__(self, stretch: Stretch) -> None:
        super().__init__(stretch.length)
        self._first, self._file = stretch.offset, open(stretch.place, "rb", buffering=0)
        if os.fstat(self._file.fileno()).st_size < stretch.offset + stretch.length:
            self.close()
            raise AudioError("truncated", f"the archive ends before byte {stretch.offset + stretch.length:,}")

    def read_at(self, position: int, view: memoryview) -> int:
        return os.preadv(self._file.fileno(), [view], self._first + position)

    def close(self) -> None:
        self._file.close()
        super().close()


class _RemoteWindow(_Window):
    """Reads ahead: twice as much each time that the reader goes straight on, little after a jump."""

    def __init__(self, stretch: Stretch) -> None:
        super().__init__(stretch.length)
        self._url, self._first = stretch.place, stretch.offset
        self._start, self._data, self._ahead = 0, b"", FIRST_WINDOW_BYTES

    def read_at(self, position: int, view: memoryview) -> int:
        end = self._start + len(self._data)
        if not self._start <= position < end:
            self._ahead = min(2 * self._ahead, LARGEST_WINDOW_BYTES) if position == end else FIRST_WINDOW_BYTES
            wanted = min(max(self._ahead, len(view)), self.length - position)
            self._start, self._data = position, read_bytes(self._url, self._first + position, wanted)
        part = self._data[position - self._start :][: len(view)]
        view[: len(part)] = part
        return len(part)
