"""Copies of remote shards on this machine, in a bounded folder that all its processes share.

    CACHE/shards/SHA256.tar         a verified copy; its mtime is when it was last asked for
    CACHE/shards/SHA256.N.tmp       a copy being made: of its final size from the start, locked by its writer
    CACHE/locks/                    lock files; never removed, so that no two processes lock different ones
    CACHE/indexes/                  folders of copied indexes (opening.py)

A shard is copied whole and checked by its sha256 on the way. The folders belong to this user alone, and files with
other names are not touched. The copies least recently asked for are removed first; a removed file stays readable for
those who have it open."""

import hashlib
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from queue import Full, Queue
from typing import BinaryIO

from data_prep.addresses import is_remote, without_secrets
from data_prep.durable import lock
from data_prep.remote.objects import pieces
from data_prep.retries import RemoteError
from data_prep.shards.index import ShardError, ShardIndex
from model.errors import UserError
from model.files import CACHE, cache_path, file_sha256

GIGABYTES = "SLAM_ASR_CACHE_GB"  # environment, beside CACHE
DEFAULT_BYTES, SHARE_OF_FREE = 100 * 10**9, 0.5  # the less of the two
LOCKS = 256  # shards with the same lock wait for each other, nothing worse
TOUCH_SECONDS = 1.0  # a copy's time of use is updated at most this often
YOUNG_SECONDS = 2.0  # a copy asked for so recently is about to be opened; it goes only when waiting has not helped
WAIT_SECONDS, POLL_SECONDS = 10.0, 0.1
ABANDONED_SECONDS = 10.0  # a temporary file is locked microseconds after it is made
FAILED_SECONDS = 30.0  # during which a shard that could not be copied is not asked for again
PREFETCH_THREADS, PREFETCH_QUEUE = 2, 64
SHA256 = re.compile(r"[0-9a-f]{64}")
COPY, TEMPORARY = re.compile(r"[0-9a-f]{64}\.tar"), re.compile(r"[0-9a-f]{64}\.[0-9]+-[0-9]+\.tmp")
_failed: dict[str, tuple[float, str]] = {}


class Mismatch(Exception):
    """Bytes of another sha256."""


@dataclass(frozen=True)
class CacheFolder:
    """Raises UserError where it cannot be used."""

    path: Path
    limit: int  # bytes of all copies together, those being made included

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
    def locked(self, sha256: str = "") -> Iterator[None]:
        """The copy of this shard, or the whole folder, for one thread of one process at a time."""
        self.make()
        name = f"{int(sha256[:8], 16) % LOCKS:03}" if sha256 else "room"
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self.path / "locks" / name, flags, 0o600)
        except OSError as error:
            raise self.unusable(error) from None
        with open(descriptor, "rb"):
            with suppress(OSError):  # a file system without locks: two may make the same copy, and both are right
                lock(descriptor, wait=True)
            yield

    @contextmanager
    def room_for(self, path: Path, size: int) -> Iterator[BinaryIO]:
        """A temporary file of `size` bytes that replaces `path` if the block succeeds; copies are removed to make room.
        While those left are young, it waits, and removes them only after WAIT_SECONDS."""
        began = time.monotonic()
        keep_seconds = YOUNG_SECONDS
        while (file := self._reserve(path, size, keep_seconds)) is None:
            time.sleep(POLL_SECONDS)
            keep_seconds = YOUNG_SECONDS if time.monotonic() - began < WAIT_SECONDS else 0.0
        with file:
            try:
                yield file
                file.flush()
                with self.locked():  # so that who counts the copies meanwhile meets this one under one of its names
                    os.replace(file.name, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(file.name)
                raise

    def unusable(self, error: OSError) -> UserError:
        return UserError(f"cannot use the cache {self.path}: {error.strerror}; set {CACHE} to another folder")

    def _reserve(self, path: Path, size: int, keep_seconds: float) -> BinaryIO | None:
        """A locked file of `size` bytes, for which old copies are removed; None while only younger ones are left."""
        copies, total, now = [], 0, time.time()
        with self.locked():
            for entry in os.scandir(self.path / "shards"):
                with suppress(FileNotFoundError):
                    status, is_copy = entry.stat(follow_symlinks=False), COPY.fullmatch(entry.name)
                    if not (is_copy or TEMPORARY.fullmatch(entry.name)) or not stat.S_ISREG(status.st_mode):
                        continue
                    if not is_copy and now - status.st_mtime > ABANDONED_SECONDS and _is_abandoned(entry.path):
                        os.unlink(entry.path)
                        continue
                    total += status.st_size
                    if is_copy:
                        copies.append((status.st_mtime, status.st_size, entry.path))
            for used, copy_bytes, copy in sorted(copies):
                if total + size <= self.limit or (keep_seconds and now - used < keep_seconds):
                    break
                with suppress(FileNotFoundError):
                    os.unlink(copy)
                total -= copy_bytes
            if total + size > self.limit:
                return None
            file = open(path.with_name(f"{path.stem}.{os.getpid()}-{time.monotonic_ns()}.tmp"), "xb")
            with suppress(OSError):
                lock(file.fileno())
            file.truncate(size)  # so that other processes count it at once
            return file


def configure(folder: str | os.PathLike[str] | None = None, gigabytes: float | None = None) -> None:
    """Sets the cache's folder and size for this process and those it starts; None leaves them as they are."""
    if folder is not None:
        os.environ[CACHE] = os.path.abspath(folder)
    if gigabytes is not None:
        os.environ[GIGABYTES] = repr(float(gigabytes))


def cache_folder() -> CacheFolder:
    """The cache that the environment names."""
    return _folder(cache_path(), os.environ.get(GIGABYTES, ""))


def local_copy(url: str, size: int, sha256: str) -> Path:
    """The shard as a file, copied if need be; it may be gone a moment later (`renew`). ShardError: it is not there,
    cannot be read, is not what its index says. UserError: too large for the cache, no space left."""
    if not SHA256.fullmatch(sha256):
        raise ShardError(f"{without_secrets(url)}: its index gives {sha256[:80]!r} for its sha256; publish it again")
    folder = cache_folder()
    path = folder.copy_path(sha256)
    if not _is_whole(path, size):
        _refuse_failed(url)
        with folder.locked(sha256):
            if not _is_whole(path, size):
                path.unlink(missing_ok=True)  # of another size: damaged
                _copy_shard(folder, url, path, size, sha256)
    return path


def renew(url: str, sha256: str) -> None:
    """Removes a damaged copy, so that a reader that failed gets a new one at its second attempt."""
    _refuse_failed(url)
    folder = cache_folder()
    path = folder.copy_path(sha256)
    with folder.locked(sha256), suppress(FileNotFoundError):
        if path.is_symlink() or file_sha256(path) != sha256:
            path.unlink()


def prefetch(index: ShardIndex, shards: Iterable[int]) -> None:
    """Starts copying shards that will soon be read, in this order, and returns at once; errors are not raised."""
    for shard in shards:
        info, place = index.shards[shard], index.location(shard)
        if is_remote(place):
            with suppress(Full):
                _prefetch_queue(os.getpid()).put_nowait((place, info.bytes, info.sha256))


def write_verified(file: BinaryIO, parts: Iterable[bytes], sha256: str) -> None:
    """Mismatch, once all is written, for bytes of another hash."""
    digest = hashlib.sha256()
    for part in parts:
        file.write(part)
        digest.update(part)
    if digest.hexdigest() != sha256:
        raise Mismatch


def _copy_shard(folder: CacheFolder, url: str, path: Path, size: int, sha256: str) -> None:
    """Copies the shard to `path`, a second time if the first copy is damaged."""
    if size > folder.limit:
        problem = f"{without_secrets(url)} has {size:,} bytes, the cache {folder.path} may hold {folder.limit:,}"
        raise UserError(f"{problem}; raise SLAM_ASR_CACHE_GB (data.cache_gb of a recipe)")
    try:
        for _ in range(2):
            with suppress(Mismatch), folder.room_for(path, size) as file:
                write_verified(file, pieces(url, size), sha256)
                return
        raise RemoteError(f"{without_secrets(url)} is not what its index describes (sha256); publish it again")
    except RemoteError as error:
        _failed[url] = (time.monotonic(), str(error))
        raise ShardError(str(error)) from None
    except OSError as error:
        problem = f"cannot write {size:,} bytes to the cache {folder.path}: {error.strerror}"
        raise UserError(f"{problem}; make room, check its disk, or set SLAM_ASR_CACHE") from None


def _refuse_failed(url: str) -> None:
    """ShardError for a shard that failed lately, so that its utterances do not wait for the storage one by one."""
    when, why = _failed.get(url, (0.0, ""))
    if why and time.monotonic() - when < FAILED_SECONDS:
        raise ShardError(why)
    _failed.pop(url, None)


def _is_whole(path: Path, size: int) -> bool:
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
def _folder(path: Path, gigabytes: str) -> CacheFolder:
    """Made, with its limit; once a process, as the free space changes."""
    limit = 0
    with suppress(ValueError, OverflowError):
        limit = int(float(gigabytes) * 1e9)
    if gigabytes and limit <= 0:
        raise UserError(f"{GIGABYTES} is {gigabytes!r}, it must be gigabytes, such as 100")
    folder = CacheFolder(path.absolute(), limit)
    folder.make()
    if folder.limit:
        return folder
    used = sum(entry.stat().st_size for entry in os.scandir(folder.path / "shards") if COPY.fullmatch(entry.name))
    return replace(folder, limit=min(DEFAULT_BYTES, int(SHARE_OF_FREE * (shutil.disk_usage(folder.path).free + used))))


def _require_own(folder: Path) -> None:
    """UserError for a folder that another user owns or may write to: copies are verified only when they are made."""
    status = folder.lstat()
    mode, wrong = status.st_mode, ""
    if not stat.S_ISDIR(mode):
        wrong = "it is a link" if stat.S_ISLNK(mode) else "Not a directory"
    elif status.st_uid != os.geteuid():
        wrong = f"it belongs to user {status.st_uid}"
    elif mode & (stat.S_IWGRP | stat.S_IWOTH):
        wrong = f"others may write to it (mode {stat.S_IMODE(mode):o}); chmod go-w it once you trust its files"
    if wrong:
        raise UserError(f"cannot use the cache {folder}: {wrong}; set {CACHE} to a folder of your own")


def _is_abandoned(path: str) -> bool:
    """Whether no process holds the temporary file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with open(descriptor, "rb"), suppress(OSError):
        return lock(descriptor)
    return False


@lru_cache(maxsize=1)
def _prefetch_queue(pid: int) -> Queue[tuple[str, int, str]]:
    """The queue of this process, with its threads; a fork has to make its own."""
    queue: Queue[tuple[str, int, str]] = Queue(PREFETCH_QUEUE)

    def copy_queued() -> None:
        while True:
            with suppress(UserError, OSError):
                local_copy(*queue.get())

    for _ in range(PREFETCH_THREADS):
        threading.Thread(target=copy_queued, name="prefetch", daemon=True).start()
    return queue
