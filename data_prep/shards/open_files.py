"""Files kept open for reading by position, shared by threads."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class OpenFiles:
    """The files read last, at most `limit`; one in use is closed only by its last reader.

    `passing`: those whose file was removed are closed when the next one is opened, which frees their disk space.
    """

    def __init__(self, limit: int, passing: bool = False) -> None:
        self._limit, self._passing = limit, passing
        self._lock = threading.Lock()
        self._files: OrderedDict[tuple[str, str], _Descriptor] = OrderedDict()

    @contextmanager
    def open(self, path: Path, identity: str) -> Iterator[int]:
        """The descriptor. Whatever is raised while it is in use makes the next use open the path anew."""
        key = (os.fspath(path), identity)
        with self._lock:
            file = self._files.get(key)
            if file is None:
                for other in [k for k, f in self._files.items() if self._passing and not os.fstat(f.number).st_nlink]:
                    del self._files[other]
                file = self._files[key] = _Descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
                if len(self._files) > self._limit:
                    self._files.popitem(last=False)
            self._files.move_to_end(key)
        try:
            yield file.number
        except BaseException:
            with self._lock:
                if self._files.get(key) is file:
                    del self._files[key]
            raise


class _Descriptor:
    """An open file, which is closed when nothing refers to it any more."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self, close=os.close) -> None:
        close(self.number)
