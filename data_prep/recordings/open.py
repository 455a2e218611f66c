"""Opening recordings wherever they lie. `Utterance.part` says which part of `Utterance.audio` is the recording:

| part | audio |
|---|---|
| (empty) | a local file, or an address that fsspec knows (s3://...) |
| bytes:OFFSET:LENGTH | a stretch of such a file: a member of a tar, an entry of a Kaldi ark |
| row:NUMBER:COLUMN | a Parquet file; rows are counted from 0, the column holds the file's bytes (or `{bytes, path}`) |
| pipe | a command, as Kaldi's `cmd |`: run without a shell, only with --allow-pipes |
| fault:REASON:MESSAGE | anything: the importer has no recording for this utterance, for this reason |

Small remote recordings are read whole, and ahead of their use (`read_ahead`); large ones as they are asked for."""

import io
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

from data_prep.addresses import is_remote
from data_prep.audio.decode import AudioError, Source, open_stream
from data_prep.recordings.parquet import recording_at
from data_prep.recordings.pipes import output_of
from data_prep.remote import objects
from data_prep.remote.objects import read_bytes
from data_prep.utterance import Utterance

WHOLE_BYTES = 8 << 20  # up to this size a recording is read at once
AHEAD = 8  # recordings, and threads: a request to object storage takes 10 to 100 ms, decoding its answer 5
FIRST_WINDOW_BYTES, LARGEST_WINDOW_BYTES = 128 << 10, 8 << 20  # of one request for a remote stretch
STRETCH = re.compile(r"bytes:([0-9]{1,18}):([0-9]{1,18})")  # of Utterance.part

Extent = tuple[str, int, int | None]  # address, first byte, number of bytes or all
_coming: dict[Extent, Future[bytes]] = {}


def open_source(audio: str, part: str = "", allow_pipes: bool = False) -> Source:
    """The recording, to be decoded. AudioError for an impossible part, OSError for what cannot be read."""
    kind, _, place = part.partition(":")
    if kind == "pipe":
        return output_of(audio, allow_pipes)
    if kind == "row":
        number, _, column = place.partition(":")
        return recording_at(audio, _number(number, part), column)
    if kind == "fault":
        reason, _, message = place.partition(":")
        raise AudioError(reason, message)
    if kind not in ("", "bytes"):
        raise AudioError("bad-part", f"part {part[:60]!r} of a recording is not known")
    first, length = (_number(text, part) for text in place.split(":", 1)) if kind else (0, None)
    if is_remote(audio):
        return recording(audio, first, length)
    if size_of(audio) < 0:
        raise FileNotFoundError(2, "there is no such file", audio)
    return Stretch(audio, first, length) if length is not None else audio


def size_of(audio: str, part: str = "") -> int:
    """Bytes of the regular file or of the object, -1 where there is none (a pipe or a device is none)."""
    if part == "pipe":
        return 0
    if is_remote(audio):
        return objects.size(audio)
    try:
        status = os.stat(audio)
    except (OSError, ValueError):
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def remote_sizes(audios: Iterable[str]) -> dict[str, int]:
    """`size_of` those that are addresses, asked for in parallel."""
    addresses = sorted({audio for audio in audios if is_remote(audio)})
    return dict(zip(addresses, objects.sizes(addresses), strict=True)) if addresses else {}


def read_all(source: Source) -> bytes:
    """All bytes of the recording."""
    with open_stream(source) as stream:
        return stream.read()


def length_of(source: Source) -> int:
    """Bytes of the recording itself."""
    with open_stream(source) as stream:
        return stream.seek(0, io.SEEK_END)


def _number(text: str, part: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise AudioError("bad-part", f"part {part[:60]!r} of a recording is not as it must be")
    return int(text)


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


def recording(url: str, first: int = 0, length: int | None = None) -> Source:
    """The bytes of a small object or stretch of one; a large one to be read in windows."""
    coming = _coming.pop((url, first, length), None)
    data = coming.result() if coming is not None else _read_beginning(url, first, length)
    if len(data) < WHOLE_BYTES or len(data) == length:
        return data
    return Stretch(url, first, length if length is not None else objects.size(url) - first)


def read_ahead(utterances: Sequence[Utterance]) -> Iterator[Utterance]:
    """The utterances, in order, while the remote recordings of the next few are being read for `recording`."""
    extents: list[Extent | None] = []
    for utterance in utterances:
        stretch = STRETCH.fullmatch(utterance.part)
        extent = (utterance.audio, int(stretch[1]), int(stretch[2])) if stretch else (utterance.audio, 0, None)
        extents.append(extent if is_remote(utterance.audio) and (stretch or not utterance.part) else None)
    if not any(extents):
        yield from utterances
        return
    pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="recordings")
    try:
        for number, utterance in enumerate(utterances):
            for extent in extents[: AHEAD + 1] if number == 0 else extents[number + AHEAD : number + AHEAD + 1]:
                if extent is not None and extent not in _coming:
                    _coming[extent] = pool.submit(_read_beginning, *extent)
            yield utterance
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for extent in filter(None, extents):
            _coming.pop(extent, None)


def _read_beginning(url: str, first: int, length: int | None) -> bytes:
    return read_bytes(url, first, WHOLE_BYTES if length is None else min(length, WHOLE_BYTES))


class _Window(io.RawIOBase):
    """The bytes of a stretch, which `read_at` reads by their position in it."""

    def __init__(self, stretch: Stretch) -> None:
        self.stretch, self._at = stretch, 0

    def read_at(self, position: int, view: memoryview) -> int:
        raise NotImplementedError

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self.stretch.length - self._at)]
        count = self.read_at(self._at, view) if len(view) else 0
        self._at += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.stretch.length}[whence])
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


class _LocalWindow(_Window):
    """Opens the file anew, so that threads do not share a position."""

    def __init__(self, stretch: Stretch) -> None:
        super().__init__(stretch)
        self._file = open(stretch.place, "rb", buffering=0)
        if os.fstat(self._file.fileno()).st_size < stretch.offset + stretch.length:
            self.close()
            raise AudioError("truncated", f"the archive ends before byte {stretch.offset + stretch.length:,}")

    def read_at(self, position: int, view: memoryview) -> int:
        return os.preadv(self._file.fileno(), [view], self.stretch.offset + position)

    def close(self) -> None:
        self._file.close()
        super().close()


class _RemoteWindow(_Window):
    """Reads ahead: twice as much each time that the reader goes straight on, little after a jump."""

    _start, _data, _ahead = 0, b"", FIRST_WINDOW_BYTES

    def read_at(self, position: int, view: memoryview) -> int:
        end = self._start + len(self._data)
        if not self._start <= position < end:
            self._ahead = min(2 * self._ahead, LARGEST_WINDOW_BYTES) if position == end else FIRST_WINDOW_BYTES
            wanted = min(max(self._ahead, len(view)), self.stretch.length - position)
            self._start = position
            self._data = read_bytes(self.stretch.place, self.stretch.offset + position, wanted)
        part = self._data[position - self._start :][: len(view)]
        view[: len(part)] = part
        return len(part)
