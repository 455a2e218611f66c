"""The lock on a run's folder: held by its first rank, dropped by the system when that process ends, however it ends."""

import errno
import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from model.errors import TransientError, UserError

NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""What a mount without locks answers, such as Lustre's with noflock."""


def claim(run: Path) -> str:
    """Makes the folder, and makes it ours for as long as this process lives; "", or what is to be said about it.

    TransientError if it is somebody else's or on a full disk, UserError if it cannot be written.
    """
    note = ""
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = os.open(run / "LOCK", os.O_RDWR | os.O_CREAT, 0o644)
        note = _flock(lock, run)
        os.truncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    except BlockingIOError:
        raise in_use(run, _named(run)) from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        todo = "make room there, or give" if full else "give"
        said = f"cannot write in run.dir {str(run)!r}: {error.strerror}; {todo} another run.dir"
        raise (TransientError if full else UserError)(said) from None
    return note


def _flock(lock: int, run: Path) -> str:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return f"{run} is on a file system without locks: nothing keeps a second run out of it (mount with -o flock)"
    return ""


def holder(run: Path) -> str:
    """Who holds a run, `process 12 on gpu3`; "" if nobody does, or the file system knows no locks."""
    with suppress(OSError), open(run / "LOCK") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _named(run)
    return ""


def in_use(run: Path, by: str) -> TransientError:
    """What is said of a run that is going."""
    return TransientError(f"{run} is in use by {by}; wait for it, or give another run.dir")


def _named(run: Path) -> str:
    return (run / "LOCK").read_text(errors="replace")[:200].strip() or "another process"
