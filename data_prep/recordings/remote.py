"""Recordings at addresses, as data_prep.audio.decode reads them: small ones whole, large ones as they are asked for."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

from data_prep.addresses import is_remote
from data_prep.audio.decode import Source
from data_prep.remote.objects import read_bytes, size
from data_prep.utterance import Utterance

WHOLE_BYTES = 8 << 20  # up to this size a recording is read at once
FIRST_WINDOW_BYTES, LARGEST_WINDOW_BYTES = 128 << 10, 8 << 20  # read at once of a larger one
AHEAD = 8  # recordings, and threads: a request to object storage takes 10 to 100 ms, decoding what it gives 5
STRETCH = re.compile(r"bytes:([0-9]{1,18}):([0-9]{1,18})")  # of Utterance.part

Place = tuple[str, int, int | None]  # address, first byte, number of bytes or all
_coming: dict[Place, Future[bytes]] = {}


def recording(url: str, first: int = 0, length: int | None = None) -> Source:
    """The bytes of a small object or stretch of one; a large one to be read in windows."""
    coming = _coming.pop((url, first, length), None)
    data = coming.result() if coming is not None else _begin(url, first, length)
    if len(data) < WHOLE_BYTES or len(data) == length:
        return data
    return RemoteStretch(url, first, length if length is not None else size(url) - first)


def read_ahead(utterances: Sequence[Utterance]) -> Iterator[Utterance]:
    """The utterances, in order, while the remote recordings of the next few are being read for `recording`."""
    places = [_place(utterance) for utterance in utterances]
    if not any(places):
        yield from utterances
        return
    pool, following = ThreadPoolExecutor(AHEAD, thread_name_prefix="recordings"), iter(places)
    try:
        for _ in range(AHEAD):
            _ask(pool, next(following, None))
        for utterance in utterances:
            _ask(pool, next(following, None))
            yield utterance
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for place in places:
            if place is not None:
                _coming.pop(place, None)


@dataclass(frozen=True)
class RemoteStretch:
    """A recording, or a part of an archive, too large to be read before it is known what of it is wanted."""

    url: str
    offset: int
    length: int

    def open(self) -> BinaryIO:
        return io.BufferedReader(_Windows(self), FIRST_WINDOW_BYTES)


class _Windows(io.RawIOBase):
    """Reads ahead: twice as much each time that the reader goes straight on, little after a jump."""

    def __init__(self, stretch: RemoteStretch) -> None:
        self._stretch, self._at = stretch, 0
        self._start, self._window, self._ahead = 0, b"", FIRST_WINDOW_BYTES

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        left = self._stretch.length - self._at
        if left <= 0 or not len(view):
            return 0
        end = self._start + len(self._window)
        if not self._start <= self._at < end:
            self._ahead = min(2 * self._ahead, LARGEST_WINDOW_BYTES) if self._at == end else FIRST_WINDOW_BYTES
            wanted = min(max(self._ahead, len(view)), left)
            self._window = read_bytes(self._stretch.url, self._stretch.offset + self._at, wanted)
            self._start = self._at
        got = self._window[self._at - self._start :][: len(view)]
        view[: len(got)] = got
        self._at += len(got)
        return len(got)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._stretch.length}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _begin(url: str, first: int, length: int | None) -> bytes:
    return read_bytes(url, first, WHOLE_BYTES if length is None else min(length, WHOLE_BYTES))


def _ask(pool: ThreadPoolExecutor, place: Place | None) -> None:
    if place is not None and place not in _coming:
        _coming[place] = pool.submit(_begin, *place)


def _place(utterance: Utterance) -> Place | None:
    """Where its recording lies, if that is a remote object or a stretch of one."""
    stretch = STRETCH.fullmatch(utterance.part)
    if not is_remote(utterance.audio) or (utterance.part and stretch is None):
        return None
    return (utterance.audio, int(stretch[1]), int(stretch[2])) if stretch else (utterance.audio, 0, None)
