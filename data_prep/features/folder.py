"""The directory of a feature cache, which the ranks of one job fill together, without waiting for each other.

Each shard of audio is one rank's at a time, by a lock that ends with the process that holds it. So no two ranks encode
the same, and the unfinished work of a dead rank is taken up by another. Where the file system has no locks each rank
keeps to its own share. Another job, and any other command that writes into this directory, is refused.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.build.finish import WorkDir
from data_prep.build.workdir import mark_unfinished, remove_temporaries, require_resumable
from data_prep.durable import canonical_json, sync_folder
from data_prep.locks import lock
from data_prep.shards.opening import UNFINISHED_NAME
from model.errors import UserError

LOCK_NAME = ".ranks.lock"
BEGIN_OR_FINISH, FIRST_SHARD = 0, 1  # bytes of LOCK_NAME: locked for a moment; of shard 0, those of others behind it


@dataclass
class FeatureFolder:
    """A directory that this process has joined; `join` makes one."""

    workdir: WorkDir
    locks: int | None
    """Descriptor of LOCK_NAME; None on a file system without locks."""

    def take(self, shard: int) -> bool:
        """Whether audio shard `shard` is now this process's to encode; False while another one has it."""
        try:
            self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, FIRST_SHARD + shard)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            return False
        return True

    def release(self, shard: int) -> None:
        self._lock(fcntl.LOCK_UN, FIRST_SHARD + shard)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other rank begins or finishes in the block."""
        self._lock(fcntl.LOCK_EX, BEGIN_OR_FINISH)
        try:
            yield
        finally:
            self._lock(fcntl.LOCK_UN, BEGIN_OR_FINISH)

    def _lock(self, operation: int, byte: int) -> None:
        if self.locks is not None:
            fcntl.lockf(self.locks, operation, 1, byte)

    def remove_leftovers(self) -> None:
        """Removes what killed writers left and the marks of unfinished work; only where nobody writes any more."""
        remove_temporaries(self.workdir.out)
        for name in (UNFINISHED_NAME, LOCK_NAME):
            (self.workdir.out / name).unlink(missing_ok=True)
        sync_folder(self.workdir.out)


@contextmanager
def join(
    out: Path, fingerprint: dict[str, Any], options: dict[str, Any], overwrite: bool | None = None
) -> Iterator[FeatureFolder]:
    """`out` (made if need be), shared with the other ranks of the same job. `overwrite`: as of `require_resumable`.

    UserError if another command or job is writing into it, or if it holds what was made from other input or options.
    """
    with ExitStack() as descriptors:
        try:
            out.mkdir(parents=True, exist_ok=True)
            folder = os.open(out, os.O_RDONLY)
            descriptors.callback(os.close, folder)
            locks = os.open(out / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            descriptors.callback(os.close, locks)
        except OSError as error:
            raise UserError(f"cannot write to {out}: {error.strerror}; give another directory") from None
        try:
            joined = FeatureFolder(WorkDir(out, fingerprint, options), locks if _share(folder, locks, out) else None)
            with joined.alone():
                if overwrite and joined.locks is not None and not _is_begun(joined.workdir):
                    if not lock(folder):
                        raise UserError(f"another job is building {out}; wait for it, or give another directory")
                    lock(folder, shared=True)
                finished = require_resumable(out, fingerprint, options, overwrite)
                if finished is None:
                    mark_unfinished(out, fingerprint, options)
            joined.workdir = WorkDir(out, fingerprint, options, finished)
            yield joined
        finally:
            if not (out / UNFINISHED_NAME).exists():
                (out / LOCK_NAME).unlink(missing_ok=True)


def _share(folder: int, locks: int, out: Path) -> bool:
    """Locks the directory against other commands; False on a file system without locks."""
    try:
        shared = lock(folder, shared=True)
        fcntl.lockf(locks, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 1 << 40)  # a byte that nobody else locks
    except OSError:
        return False
    if not shared:
        raise UserError(f"another process is building {out}; wait for it, or give another directory")
    return True


def _is_begun(workdir: WorkDir) -> bool:
    """Whether it is this very cache that is unfinished here."""
    try:
        begun = (workdir.out / UNFINISHED_NAME).read_bytes()
    except OSError:
        return False
    return begun == canonical_json({"fingerprint": workdir.fingerprint, "options": workdir.options})
