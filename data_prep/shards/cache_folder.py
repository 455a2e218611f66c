"""The folder that holds copies of remote shards: bounded, shared by all processes of a machine.

    CACHE/shards/SHA256.tar         a verified copy; its mtime is when it was last asked for
    CACHE/shards/SHA256.N.tmp       a copy being made: of its final size from the start, locked by its writer
    CACHE/locks/                    lock files; never removed, so that no two processes lock different ones
    CACHE/indexes/                  folders of copied indexes (cache.py)

The folders belong to this user alone, and files with other names are not touched. The copies least recently asked for
are removed first. A removed file stays readable for those who have it open.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from data_prep.locks import lock
from model.errors import UserError

FOLDER, GIGABYTES = "SLAM_ASR_CACHE", "SLAM_ASR_CACHE_GB"  # environment; worker processes inherit it
DEFAULT_BYTES, SHARE_OF_FREE = 100 * 10**9, 0.5  # the less of the two
LOCKS = 256  # shards with the same lock wait for each other, nothing worse
TOUCH_SECONDS = 1.0  # a copy's time of use is updated at most this often
YOUNG_SECONDS = 2.0  # a copy asked for so recently is about to be opened; it goes only when waiting has not helped
WAIT_SECONDS, POLL_SECONDS = 10.0, 0.1
COPY, TEMPORARY = re.compile(r"[0-9a-f]{64}\.tar"), re.compile(r"[0-9a-f]{64}\.[0-9]+-[0-9]+\.tmp")
DEAD_SECONDS = 10.0  # a temporary file is locked microseconds after it is made


@dataclass(frozen=True)
class CacheFolder:
    """Raises UserError where it cannot be used."""

    path: Path
    limit: int
    """Bytes of all copies together, those being made included."""

    def make(self) -> None:
        """Makes the folders that are missing, and checks that no other user could have put files into them."""
        try:
            for folder in (self.path, *(self.path / name for name in ("shards", "locks", "indexes"))):
                with suppress(FileExistsError):
                    folder.mkdir(mode=0o700, parents=True)
                _require_own(folder)
        except OSError as error:
            raise self.unusable(error) from None

    def copy_path(self, sha256: str) -> Path:
        return self.path / "shards" / f"{sha256}.tar"

    @contextmanager
    def shard_locked(self, sha256: str) -> Iterator[Path]:
        """The path of a shard's copy, for one thread of one process at a time."""
        self.make()
        with self._locked(f"{int(sha256[:8], 16) % LOCKS:03}"):
            yield self.copy_path(sha256)

    @contextmanager
    def room_for(self, path: Path, size: int) -> Iterator[BinaryIO]:
        """A temporary file of `size` bytes that replaces `path` if the block succeeds; copies are removed to make room.

        While those left are young, it waits, and removes them only after WAIT_SECONDS.
        """
        file, began = None, time.monotonic()
        while file is None:
            with self._locked("room"):
                if self._make_room(size, YOUNG_SECONDS if time.monotonic() - began < WAIT_SECONDS else 0.0):
                    file = _create(path, size)
            if file is None:
                time.sleep(POLL_SECONDS)
        with file:
            try:
                yield file
                file.flush()
                os.replace(file.name, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(file.name)
                raise

    def unusable(self, error: OSError) -> UserError:
        return UserError(f"cannot use the cache {self.path}: {error.strerror}; set {FOLDER} to another folder")

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(self.path / "locks" / name, flags, 0o600)
        except OSError as error:
            raise self.unusable(error) from None
        try:
            with suppress(OSError):  # a file system without locks: two may make the same copy, and both are right
                lock(descriptor, wait=True)
            yield
        finally:
            os.close(descriptor)

    def _make_room(self, size: int, keep_seconds: float) -> bool:
        """Removes the copies least recently asked for; whether `size` more bytes fit then."""
        copies, total, now = [], 0, time.time()
        for entry in os.scandir(self.path / "shards"):
            with suppress(FileNotFoundError):
                status, is_copy = entry.stat(follow_symlinks=False), COPY.fullmatch(entry.name)
                if not (is_copy or TEMPORARY.fullmatch(entry.name)) or not stat.S_ISREG(status.st_mode):
                    continue
                if not is_copy and now - status.st_mtime > DEAD_SECONDS and _is_dead(entry.path):
                    os.unlink(entry.path)
                    continue
                total += status.st_size
                if is_copy:
                    copies.append((status.st_mtime, status.st_size, entry.path))
        for used, copy_bytes, path in sorted(copies):
            if total + size <= self.limit or (keep_seconds and now - used < keep_seconds):
                break
            with suppress(FileNotFoundError):
                os.unlink(path)
            total -= copy_bytes
        return total + size <= self.limit


def configure(folder: str | os.PathLike[str] | None = None, gigabytes: float | None = None) -> None:
    """Sets the cache's folder and size for this process and those it starts; None leaves them as they are."""
    if folder is not None:
        os.environ[FOLDER] = os.path.abspath(folder)
    if gigabytes is not None:
        os.environ[GIGABYTES] = repr(float(gigabytes))


def cache_folder() -> CacheFolder:
    """The cache that the environment names."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _folder(os.environ.get(FOLDER) or os.path.join(home, "slam-asr"), os.environ.get(GIGABYTES, ""))


def is_there(path: Path, size: int) -> bool:
    """Whether the whole copy is there; if so, it counts as asked for now."""
    try:
        status = path.lstat()
        whole = stat.S_ISREG(status.st_mode) and status.st_size == size
        if whole and time.time() - status.st_mtime > TOUCH_SECONDS:
            os.utime(path)
        return whole
    except OSError:
        return False


@lru_cache(maxsize=4)
def _folder(path: str, gigabytes: str) -> CacheFolder:
    """Made, with its limit; once a process, as the free space changes."""
    limit = 0
    with suppress(ValueError, OverflowError):
        limit = int(float(gigabytes) * 1e9)
    if gigabytes and limit <= 0:
        raise UserError(f"{GIGABYTES} is {gigabytes!r}, it must be gigabytes, such as 100")
    folder = CacheFolder(Path(path).expanduser().absolute(), limit)
    folder.make()
    if folder.limit:
        return folder
    used = sum(entry.stat().st_size for entry in os.scandir(folder.path / "shards") if COPY.fullmatch(entry.name))
    return replace(folder, limit=min(DEFAULT_BYTES, int(SHARE_OF_FREE * (shutil.disk_usage(folder.path).free + used))))


def _require_own(folder: Path) -> None:
    """UserError for a folder that another user made or may write to: copies are verified only when they are made."""
    status = folder.lstat()
    wrong = ""
    if not stat.S_ISDIR(status.st_mode):
        wrong = "it is a link" if stat.S_ISLNK(status.st_mode) else "Not a directory"
    elif status.st_uid != os.geteuid():
        wrong = f"it belongs to user {status.st_uid}"
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        wrong = (
            f"others may write to it (mode {stat.S_IMODE(status.st_mode):o}); chmod go-w it once you trust its files"
        )
    if wrong:
        raise UserError(f"cannot use the cache {folder}: {wrong}; set {FOLDER} to a folder of your own")


def _create(path: Path, size: int) -> BinaryIO:
    """A locked temporary file beside `path`, of `size` bytes so that other processes count them at once."""
    file = open(path.with_name(f"{path.stem}.{os.getpid()}-{time.monotonic_ns()}.tmp"), "xb")
    with suppress(OSError):
        lock(file.fileno())
    file.truncate(size)
    return file


def _is_dead(path: str) -> bool:
    """Whether no process holds the temporary file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return lock(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)
