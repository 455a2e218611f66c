"""The folder that holds copies of remote shards: bounded, shared by all processes of a machine.

    CACHE/shards/SHA256.tar         a copy, checked when it was made; its time of change is when it was last asked for
    CACHE/shards/SHA256.N.tmp       one being made; as large as it will be from the start, and locked by who makes it
    CACHE/locks/                    files to lock; never removed, so that no two processes lock different ones
    CACHE/indexes/                  folders of copied indexes (cache.py)

The folders are this user's alone, and files of other names are not touched. What is asked for goes in, what was not
asked for the longest goes out first. A removed file stays readable for those who have it open.
"""

from __future__ import annotations

import fcntl
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

from model.errors import UserError

FOLDER, GIGABYTES = "SLAM_ASR_CACHE", "SLAM_ASR_CACHE_GB"  # environment; worker processes inherit it
DEFAULT_BYTES, SHARE_OF_FREE = 100 * 10**9, 0.5  # the less of the two
LOCKS = 256  # shards that share one wait for each other, nothing worse
TOUCH_SECONDS = 1.0  # a copy's time of use is noted at most this often
YOUNG_SECONDS = 2.0  # a copy asked for so lately is about to be opened; it goes only when waiting has not helped
WAIT_SECONDS = 10.0
POLL_SECONDS = 0.1
COPY, TEMPORARY = re.compile(r"[0-9a-f]{64}\.tar"), re.compile(r"[0-9a-f]{64}\.[0-9]+-[0-9]+\.tmp")
DEAD_SECONDS = 10.0  # between the making of a temporary file and its lock lie microseconds


@dataclass(frozen=True)
class CacheFolder:
    """Raises UserError where it cannot be used."""

    path: Path
    limit: int
    """Bytes of all copies together, those being made included."""

    def make(self) -> None:
        """The folders that it needs; somebody may have removed them. What others could have put there is not used."""
        try:
            for folder in (self.path, *(self.path / name for name in ("shards", "locks", "indexes"))):
                with suppress(FileExistsError):
                    folder.mkdir(mode=0o700, parents=True)
                _require_own(folder)
        except OSError as error:
            raise self._unusable(error) from None

    def copy_path(self, sha256: str) -> Path:
        return self.path / "shards" / f"{sha256}.tar"

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Held by one thread of one process at a time; one that is killed lets go. Without locks: not held at all."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(self.path / "locks" / name, flags, 0o600)
        except OSError as error:
            raise self._unusable(error) from None
        try:
            with suppress(OSError):  # a file system without locks: two may make the same copy, and both are right
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def shard_locked(self, sha256: str) -> Iterator[None]:
        with self.locked(f"{int(sha256[:8], 16) % LOCKS:03}"):
            yield

    @contextmanager
    def room_for(self, path: Path, size: int, idle_seconds: float | None = None) -> Iterator[BinaryIO | None]:
        """A temporary file of `size` bytes that takes `path`'s place if the block ends well; copies go to make room.

        With `idle_seconds`, only copies not asked for as long as this go; None where that is not enough.
        """
        began = time.monotonic()
        while True:
            waited = time.monotonic() - began
            keep = idle_seconds if idle_seconds is not None else YOUNG_SECONDS if waited < WAIT_SECONDS else 0.0
            with self.locked("room"):
                file = self._create(path, size) if self._make_room(size, keep) else None
            if file is not None or idle_seconds is not None:
                break
            time.sleep(POLL_SECONDS)
        if file is None:
            yield None
            return
        with file:
            try:
                yield file
                file.flush()
                os.replace(file.name, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(file.name)
                raise

    def _unusable(self, error: OSError) -> UserError:
        return UserError(f"cannot use the cache {self.path}: {error.strerror}; set {FOLDER} to another folder")

    def _create(self, path: Path, size: int) -> BinaryIO:
        temporary = path.with_name(f"{path.stem}.{os.getpid()}-{time.monotonic_ns()}.tmp")
        file = open(temporary, "xb")
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(size)  # a promise that the others count; the disk gives blocks as they are written
        return file

    def _make_room(self, size: int, keep_seconds: float) -> bool:
        """Removes copies, those first that were not asked for the longest; whether `size` bytes fit in then."""
        copies, total, now = [], 0, time.time()
        for entry in os.scandir(self.path / "shards"):
            with suppress(FileNotFoundError):
                found, of_copy = entry.stat(follow_symlinks=False), COPY.fullmatch(entry.name)
                if not (of_copy or TEMPORARY.fullmatch(entry.name)) or not stat.S_ISREG(found.st_mode):
                    continue  # somebody else's
                if not of_copy and now - found.st_mtime > DEAD_SECONDS and _is_dead(entry.path):
                    os.unlink(entry.path)
                    continue
                total += found.st_size
                if of_copy:
                    copies.append((found.st_mtime, found.st_size, entry.path))
        for used, size_of_copy, path in sorted(copies):
            if total + size <= self.limit or (keep_seconds and now - used < keep_seconds):
                break
            with suppress(FileNotFoundError):
                os.unlink(path)
            total -= size_of_copy
        return total + size <= self.limit


def configure(folder: str | os.PathLike[str] | None = None, gigabytes: float | None = None) -> None:
    """Where the cache lies and how large it may get, for this process and those it starts; None leaves it as it is."""
    if folder is not None:
        os.environ[FOLDER] = os.path.abspath(folder)
    if gigabytes is not None:
        os.environ[GIGABYTES] = repr(float(gigabytes))


def cache_folder() -> CacheFolder:
    """The one that the environment names."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _folder(os.environ.get(FOLDER) or os.path.join(home, "slam-asr"), os.environ.get(GIGABYTES, ""))


def is_there(path: Path, size: int) -> bool:
    """Whether the whole copy is there; if so, it counts as asked for now."""
    try:
        found = path.lstat()
        whole = stat.S_ISREG(found.st_mode) and found.st_size == size
        if whole and time.time() - found.st_mtime > TOUCH_SECONDS:
            os.utime(path)
        return whole
    except OSError:
        return False


@lru_cache(maxsize=4)
def _folder(path: str, gigabytes: str) -> CacheFolder:
    """Made, with its limit; once a process, as what is free changes."""
    folder = CacheFolder(Path(path).expanduser().absolute(), _stated_limit(gigabytes))
    folder.make()
    if folder.limit:
        return folder
    held = sum(entry.stat().st_size for entry in os.scandir(folder.path / "shards") if COPY.fullmatch(entry.name))
    return replace(folder, limit=min(DEFAULT_BYTES, int(SHARE_OF_FREE * (shutil.disk_usage(folder.path).free + held))))


def _stated_limit(gigabytes: str) -> int:
    """Bytes; 0 where nothing is stated."""
    if not gigabytes:
        return 0
    try:
        limit = int(float(gigabytes) * 1e9)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise UserError(f"{GIGABYTES} is {gigabytes!r}, it must be gigabytes, such as 100")
    return limit


def _require_own(folder: Path) -> None:
    """UserError for a folder that another user of the machine made or may write to: a copy is checked only once."""
    found = folder.lstat()
    wrong = ""
    if not stat.S_ISDIR(found.st_mode):
        wrong = "it is a link" if stat.S_ISLNK(found.st_mode) else "Not a directory"
    elif found.st_uid != os.geteuid():
        wrong = f"it belongs to user {found.st_uid}"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        wrong = f"others may write to it (mode {stat.S_IMODE(found.st_mode):o}); chmod go-w it once you trust its files"
    if wrong:
        raise UserError(f"cannot use the cache {folder}: {wrong}; set {FOLDER} to a folder of your own")


def _is_dead(path: str) -> bool:
    """Whether no process holds the temporary file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
