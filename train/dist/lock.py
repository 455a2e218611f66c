"""The lock on a run's folder: held by rank 0, dropped by the system when that process ends, however it ends."""

import os
import socket
from contextlib import suppress
from pathlib import Path

from data_prep.durable import FULL, NO_LOCKS, lock
from model.errors import TransientError, UserError


def claim(run: Path) -> str:
    """Makes and locks the folder for as long as this process lives; a remark where its file system knows no locks.
    TransientError if another process has it or the disk is full, UserError if it cannot be written."""
    remark = ""
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = os.open(run / "LOCK", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not lock(file):
                raise in_use(run, _named(run))
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            remark = f"{run} is on a file system without locks: no second run is kept out of it (mount with -o flock)"
        os.truncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    except OSError as error:
        full = error.errno in FULL
        todo = "make room there, or give" if full else "give"
        fault = f"cannot write in run.dir {str(run)!r}: {error.strerror}; {todo} another run.dir"
        raise (TransientError if full else UserError)(fault) from None
    return remark


def holder(run: Path) -> str:
    """Who holds a run, `process 12 on gpu3`; "" if nobody does, or the file system knows no locks."""
    with suppress(OSError), open(run / "LOCK") as file:
        return "" if lock(file.fileno(), shared=True) else _named(run)
    return ""


def in_use(run: Path, by: str) -> TransientError:
    """The refusal of a run folder that a live process holds."""
    return TransientError(f"{run} is in use by {by}; wait for it, or give another run.dir")


def _named(run: Path) -> str:
    return (run / "LOCK").read_text(errors="replace")[:200].strip() or "another process"
