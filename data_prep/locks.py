"""Advisory locks (flock) on files and folders; the system drops one when its process ends, however it ends."""

import errno
import fcntl

NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""Errors of a file system without locks, such as Lustre mounted with noflock."""


def lock(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Whether the open file or folder is now locked by this process, rather than held by another.

    A shared lock is compatible with other shared locks. With `wait`, returns only once it is locked. OSError with an
    errno in NO_LOCKS on a file system without locks.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
