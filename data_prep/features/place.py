"""The directory of a feature cache, which the ranks of one job fill together, without waiting for each other.

Each shard of audio is one rank's at a time, by a lock that ends with the process that holds it. So no two ranks encode
the same, and what a dead rank had begun is taken up by another. Where the file system has no locks a rank keeps to its
own share. Another job, and whatever else builds in this directory, is refused.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.build import workdir as workplace
from data_prep.durable import canonical_json, sync_folder, write_durably
from data_prep.shards.files import UNFINISHED_NAME
from data_prep.shards.index import INDEX_NAME
from model.errors import UserError

LOCK_NAME = ".ranks.lock"
_START = 0  # the byte of LOCK_NAME that is held for a moment, to begin or to finish; byte 1 + n is that of shard n


class Place:
    """A directory that this process has joined; `join` makes one."""

    def __init__(self, out: Path, folder: int, locks: int, locked: bool) -> None:
        self.out = out
        self.finished: dict[str, Any] | None = None
        """What index.json says, if all was done before."""
        self.has_locks = locked
        self._folder, self._locks = folder, locks

    def take(self, shard: int) -> bool:
        """Whether audio shard `shard` is now this process's to encode; False while another one has it."""
        if not self.has_locks:
            return True
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 + shard)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            return False
        return True

    def release(self, shard: int) -> None:
        """Lets others have the shard."""
        if self.has_locks:
            fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, 1 + shard)

    @contextmanager
    def alone_for_a_moment(self) -> Iterator[None]:
        """No other rank begins or finishes meanwhile."""
        if not self.has_locks:
            yield
            return
        fcntl.lockf(self._locks, fcntl.LOCK_EX, 1, _START)
        try:
            yield
        finally:
            fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, _START)

    def begin(self, wanted: dict[str, Any], overwrite: bool | None) -> None:
        """Looks around, and declares the directory unfinished. UserError if it holds another job's work."""
        with self.alone_for_a_moment():
            if overwrite and self.has_locks and not _is_of(self.out, wanted) and not self._is_only_one():
                raise UserError(f"another job is building {self.out}; wait for it, or give another directory")
            self.finished = workplace.look_around(self.out, wanted, overwrite)
            if self.finished is None:
                write_durably(self.out / UNFINISHED_NAME, canonical_json(wanted))
                (self.out / INDEX_NAME).unlink(missing_ok=True)
                sync_folder(self.out)

    def _is_only_one(self) -> bool:
        try:
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self._folder, fcntl.LOCK_SH)
        return True


@contextmanager
def join(
    out: Path, fingerprint: dict[str, Any], options: dict[str, Any], overwrite: bool | None = None
) -> Iterator[Place]:
    """`out` (made if need be), shared with the other ranks of the same job. `overwrite`: as of workplace.look_around.

    UserError if another kind of builder holds it, or if it holds what was made from other input or options.
    """
    with _opened(out) as (folder, locks):
        place = Place(out, folder, locks, _shared(folder, locks, out))
        place.begin({"fingerprint": fingerprint, "options": options}, overwrite)
        yield place


def remove_leftovers(out: Path) -> None:
    """What killed writers left, and the marks of work; only where nobody writes any more."""
    workplace.remove_temporaries(out)
    for name in (UNFINISHED_NAME, LOCK_NAME):
        (out / name).unlink(missing_ok=True)
    sync_folder(out)


@contextmanager
def _opened(out: Path) -> Iterator[tuple[int, int]]:
    """Descriptors of the directory and of its file of locks."""
    descriptors: list[int] = []
    try:
        try:
            out.mkdir(parents=True, exist_ok=True)
            descriptors.append(os.open(out, os.O_RDONLY))
            descriptors.append(os.open(out / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
        except OSError as error:
            raise UserError(f"cannot write to {out}: {error.strerror}; give another directory") from None
        yield descriptors[0], descriptors[1]
    finally:
        if len(descriptors) == 2 and not (out / UNFINISHED_NAME).exists():
            (out / LOCK_NAME).unlink(missing_ok=True)
        for descriptor in descriptors:
            os.close(descriptor)


def _shared(folder: int, locks: int, out: Path) -> bool:
    """Holds the directory together with others; whether the file system has locks."""
    try:
        fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.lockf(locks, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 1 << 40)
    except BlockingIOError:
        raise UserError(f"another process is building {out}; wait for it, or give another directory") from None
    except OSError:
        return False
    return True


def _is_of(out: Path, wanted: dict[str, Any]) -> bool:
    """Whether it is this very job that is unfinished here."""
    try:
        return (out / UNFINISHED_NAME).read_bytes() == canonical_json(wanted)
    except OSError:
        return False
