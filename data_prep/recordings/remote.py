"""Recordings at addresses: small ones are read whole, and ahead of their use; large ones as they are asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from data_prep.addresses import is_remote
from data_prep.audio.decode import Source
from data_prep.recordings.windows import Stretch
from data_prep.remote.objects import read_bytes, size
from data_prep.utterance import Utterance

WHOLE_BYTES = 8 << 20  # up to this size a recording is read at once
AHEAD = 8  # recordings, and threads: a request to object storage takes 10 to 100 ms, decoding its answer 5
STRETCH = re.compile(r"bytes:([0-9]{1,18}):([0-9]{1,18})")  # of Utterance.part

Extent = tuple[str, int, int | None]  # address, first byte, number of bytes or all
_coming: dict[Extent, Future[bytes]] = {}


def recording(url: str, first: int = 0, length: int | None = None) -> Source:
    """The bytes of a small object or stretch of one; a large one to be read in windows."""
    coming = _coming.pop((url, first, length), None)
    data = coming.result() if coming is not None else _read_beginning(url, first, length)
    if len(data) < WHOLE_BYTES or len(data) == length:
        return data
    return Stretch(url, first, length if length is not None else size(url) - first)


def read_ahead(utterances: Sequence[Utterance]) -> Iterator[Utterance]:
    """The utterances, in order, while the remote recordings of the next few are being read for `recording`."""
    extents = [_extent(utterance) for utterance in utterances]
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


def _extent(utterance: Utterance) -> Extent | None:
    """Where its recording lies, if that is a remote object or a stretch of one."""
    stretch = STRETCH.fullmatch(utterance.part)
    if not is_remote(utterance.audio) or (utterance.part and stretch is None):
        return None
    return (utterance.audio, int(stretch[1]), int(stretch[2])) if stretch else (utterance.audio, 0, None)
