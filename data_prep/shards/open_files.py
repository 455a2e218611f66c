"""Files kept open for reading by position, shared by threads."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class OpenFiles:
    """A bounded set of open files, shared by threads. One being read is not closed, one that failed is not kept.

    `passing`: those whose file was removed are closed when the next one is opened, and the disk gets its room back.
    """

    def __init__(self, limit: int, passing: bool = False) -> None:
        self._limit, self._passing = limit, passing
        self._lock = threading.Lock()
        self._files: OrderedDict[tuple[str, str], _OpenFile] = OrderedDict()

    @contextmanager
    def open(self, path: Path, identity: str) -> Iterator[int]:
        """The descriptor. Whatever is raised while it is in use makes the next use open the path anew."""
        key = (os.fspath(path), identity)
        with self._lock:
            file = self._files.get(key)
            if file is None:
                self._close_removed()
                file = self._files[key] = _OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            file.readers += 1
            self._files.move_to_end(key)
        try:
            yield file.descriptor
        except BaseException:
            file.failed = True
            raise
        finally:
            with self._lock:
                file.readers -= 1
                self._close_unwanted(key, file)

    def _close_removed(self) -> None:
        for key, file in list(self._files.items()) if self._passing else []:
            if not file.readers and not os.fstat(file.descriptor).st_nlink:
                os.close(self._files.pop(key).descriptor)

    def _close_unwanted(self, key: tuple[str, str], file: _OpenFile) -> None:
        if file.failed:
            if self._files.get(key) is file:
                del self._files[key]
            if not file.readers:
                os.close(file.descriptor)
        surplus = len(self._files) - self._limit
        if surplus > 0:
            idle = [key for key, other in self._files.items() if not other.readers]
            for key in idle[:surplus]:
                os.close(self._files.pop(key).descriptor)


@dataclass(eq=False)
class _OpenFile:
    descriptor: int
    readers: int = 0
    failed: bool = False
