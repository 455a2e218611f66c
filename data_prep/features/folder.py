"""The directory of a feature cache, which the ranks of one job fill together, without waiting for each other.

Each shard of audio is one rank's at a time, by a lock that ends with the process that holds it. So no two ranks encode
the same, and the unfinished work of a dead rank is taken up by another. Where the file system has no locks each rank
keeps to its own share. Another job, and any other command that writes into this directory, is refused.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.build.finish import WorkDir
from data_prep.build.workdir import look_around, mark_unfinished, remove_temporaries
from data_prep.durable import canonical_json, sync_folder
from data_prep.locks import lock
from data_prep.shards.files import UNFINISHED_NAME
from model.errors import UserError

LOCK_NAME = ".ranks.lock"
BEGIN_OR_FINISH, FIRST_SHARD, PROBE = 0, 1, 1 << 40  # bytes of LOCK_NAME: locked for a moment; of shard 0; to try


class FeatureFolder:
    """A directory that this process has joined; `join` makes one."""

    def __init__(self, workdir: WorkDir, folder: int, locks: int) -> None:
        """`folder` and `locks` are descriptors of the directory and of its file of locks."""
        self.workdir, self._folder, self._locks = workdir, folder, locks
        self.has_locks = True
        try:
            shared = lock(folder, shared=True)
            fcntl.lockf(locks, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, PROBE)
        except OSError:
            self.has_locks = False
        else:
            if not shared:
                raise UserError(f"another process is building {workdir.out}; wait for it, or give another directory")

    @property
    def out(self) -> Path:
        return self.workdir.out

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

    def begin(self, overwrite: bool | None) -> None:
        """Declares the directory unfinished, unless this very cache is finished. UserError if it holds something else,
        or another job is at work in it."""
        out, made_of = self.out, (self.workdir.fingerprint, self.workdir.options)
        with self.alone():
            if overwrite and self.has_locks and not self._is_begun():
                if not lock(self._folder):
                    raise UserError(f"another job is building {out}; wait for it, or give another directory")
                lock(self._folder, shared=True)
            finished = look_around(out, *made_of, overwrite)
            if finished is None:
                mark_unfinished(out, *made_of)
        self.workdir = replace(self.workdir, finished=finished)

    def remove_leftovers(self) -> None:
        """Removes what killed writers left and the marks of unfinished work; only where nobody writes any more."""
        remove_temporaries(self.out)
        for name in (UNFINISHED_NAME, LOCK_NAME):
            (self.out / name).unlink(missing_ok=True)
        sync_folder(self.out)

    def _lock(self, operation: int, byte: int) -> None:
        if self.has_locks:
            fcntl.lockf(self._locks, operation, 1, byte)

    def _is_begun(self) -> bool:
        """Whether it is this very cache that is unfinished here."""
        document = {"fingerprint": self.workdir.fingerprint, "options": self.workdir.options}
        try:
            return (self.out / UNFINISHED_NAME).read_bytes() == canonical_json(document)
        except OSError:
            return False


@contextmanager
def join(
    out: Path, fingerprint: dict[str, Any], options: dict[str, Any], overwrite: bool | None = None
) -> Iterator[FeatureFolder]:
    """`out` (made if need be), shared with the other ranks of the same job. `overwrite`: as of workdir.look_around.

    UserError if another command is writing into it, or if it holds what was made from other input or options.
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
            joined = FeatureFolder(WorkDir(out, fingerprint, options), folder, locks)
            joined.begin(overwrite)
            yield joined
        finally:
            if not (out / UNFINISHED_NAME).exists():
                (out / LOCK_NAME).unlink(missing_ok=True)
