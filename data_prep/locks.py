"""Advisory locks (flock) on files and folders; the system drops one when its process ends, however it ends."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from model.errors import UserError

NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""Errors of a file system without locks, such as Lustre mounted with noflock."""


def lock(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Whether the open file or folder is now locked by this process, rather than held by another. A shared lock is
    compatible with other shared locks. With `wait`, returns only once it is locked. OSError with an errno in NO_LOCKS
    on a file system without locks."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked_folder(folder: Path, busy: Callable[[], UserError]) -> Iterator[None]:
    """Makes the folder and locks it for the time of the block; raises `busy()` if another process has locked it. Where
    folders cannot be locked, as on NFS, it is not. UserError for a folder that cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; give another folder") from None
    try:
        try:
            locked = lock(descriptor)
        except OSError:
            locked = True
        if not locked:
            raise busy()
        yield
    finally:
        os.close(descriptor)
