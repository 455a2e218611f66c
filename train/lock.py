"""The lock on a run's folder: held by its first rank, dropped by the system when that process ends, however it ends."""

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from model.errors import UserError


def claim(run: Path) -> None:
    """Makes the folder, and makes it ours for as long as this process lives. UserError if it is somebody else's."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = os.open(run / "LOCK", os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise in_use(run, _named(run)) from None
    except OSError as error:
        raise UserError(f"cannot write in run.dir {str(run)!r}: {error.strerror}; give another run.dir") from None
    os.truncate(lock, 0)
    os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def holder(run: Path) -> str:
    """Who holds a run, `process 12 on gpu3`; "" if nobody does, or the file system knows no locks."""
    with suppress(OSError), open(run / "LOCK") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _named(run)
    return ""


def in_use(run: Path, by: str) -> UserError:
    """What is said of a run that is going."""
    return UserError(f"{run} is in use by {by}; wait for it, or give another run.dir")


def _named(run: Path) -> str:
    return (run / "LOCK").read_text(errors="replace")[:200].strip() or "another process"
