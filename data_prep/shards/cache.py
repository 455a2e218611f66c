"""Remote datasets on this machine: shards as copies in a bounded cache, the index as files.

A shard is copied whole, checked by its sha256 on the way, once for all processes of the machine. cache_folder.py says
where copies lie and which go when room is needed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Full, Queue
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from data_prep.addresses import is_remote, resolve_address, without_secrets
from data_prep.durable import FULL, write_durably
from data_prep.remote.objects import pieces, read_bytes, require_bare
from data_prep.retries import Missing, RemoteError
from data_prep.shards.cache_folder import CacheFolder, cache_folder, configure, is_there
from data_prep.shards.files import (
    INDEX_NAME,
    ShardError,
    ShardInfo,
    columns_path,
    document_of,
    meta_path,
    read_document,
    shard_info,
)
from model.errors import UserError

if TYPE_CHECKING:
    from data_prep.shards.index import ShardIndex

__all__ = ["configure", "index_folder", "local_copy", "prefetch", "renew"]

SHA256 = re.compile(r"[0-9a-f]{64}")
INDEX_FOLDER = re.compile(r"[0-9a-f]{64}(\.[0-9]+-[0-9]+\.tmp)?")
FAILED_SECONDS = 30.0  # for which a shard that could not be copied is not asked for again
INDEX_FOLDERS = 64  # indexes kept, those last asked for
PARALLEL_FILES = 8
PREFETCH_THREADS, PREFETCH_QUEUE = 2, 64
IDLE_SECONDS = 60.0  # a shard asked for ahead takes the place of none that was used since
_failed: dict[str, tuple[float, str]] = {}


def local_copy(url: str, size: int, sha256: str) -> Path:
    """The shard as a file, copied if need be; it may be gone a moment later (`renew`).

    ShardError: it is not there, cannot be read, is not what its index says. UserError: too large for the cache, no
    space left.
    """
    if not SHA256.fullmatch(sha256):
        raise ShardError(f"{without_secrets(url)}: its index gives {sha256[:80]!r} for its sha256; publish it again")
    folder = cache_folder()
    path = folder.copy_path(sha256)
    if is_there(path, size):
        return path
    _refuse_failed(url)
    folder.make()
    with folder.shard_locked(sha256):
        if not is_there(path, size):
            path.unlink(missing_ok=True)  # of another size: damaged
            _fetch(folder, url, path, size, sha256)
    return path


def renew(url: str, sha256: str) -> None:
    """For a reader that failed, before its second attempt: a copy that is damaged is removed, to be made anew."""
    _refuse_failed(url)
    folder = cache_folder()
    folder.make()
    with folder.shard_locked(sha256), suppress(FileNotFoundError):
        path = folder.copy_path(sha256)
        with open(path, "rb") as file:
            if path.is_symlink() or hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                path.unlink()


def prefetch(index: ShardIndex, shards: Iterable[int]) -> None:
    """Asks for shards that will soon be read, in this order, and returns at once; a hint, so faults are not raised."""
    for shard in shards:
        info, place = index.shards[shard], index.location(shard)
        if is_remote(place):
            with suppress(Full):
                _ahead().put_nowait((place, info.bytes, info.sha256))


@contextmanager
def index_folder(address: str) -> Iterator[tuple[Path, str]]:
    """A folder with the index of a remote dataset, and the address: index.json, always read anew, and its columns.

    UserError: no dataset there, an unfinished one, files that are not the ones that index.json describes. What is said
    inside of the folder is said of the address.
    """
    try:
        document = read_bytes(f"{require_bare(address)}/{INDEX_NAME}")
    except Missing:
        raise UserError(
            f"{address} has no {INDEX_NAME}: there is no dataset there, or it is not finished; run the command that "
            "builds it again"
        ) from None
    parent = cache_folder().path / "indexes"
    folder = parent / hashlib.sha256(address.encode() + b"\0" + document).hexdigest()  # so none meets another's files
    try:
        cache_folder().make()
        if not (folder / INDEX_NAME).exists():
            _copy_index(address, document, folder)
            _forget_old_indexes(parent)
        os.utime(folder)
        yield folder, address
    except UserError as error:
        raise UserError(str(error).replace(str(folder), address)) from None
    except OSError as error:
        raise UserError(
            f"cannot use the cache {parent}: {error.strerror}; set SLAM_ASR_CACHE to another folder"
        ) from None


def _copy_index(address: str, document: bytes, folder: Path) -> None:
    """index.json and the files that it needs, as `folder`, which appears whole."""
    made = folder.with_name(f"{folder.name}.{os.getpid()}-{time.monotonic_ns()}.tmp")
    made.mkdir(mode=0o700)
    try:
        write_durably(made / INDEX_NAME, document)
        shards = [shard_info(made, entry) for entry in document_of(made)["shards"]]
        with ThreadPoolExecutor(PARALLEL_FILES) as pool:
            list(pool.map(lambda shard: _copy_files(address, shard, made), shards))
        with suppress(OSError):  # another process was faster
            made.rename(folder)
    except UserError as error:
        raise UserError(str(error).replace(str(made), address)) from None
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _copy_files(address: str, shard: ShardInfo, made: Path) -> None:
    """The shard's columns and, of a tar of others, its metadata, each of the hash that the one before it gives."""
    columns = columns_path(made / shard.name)
    _copy_file(address, columns, shard.columns_sha256, INDEX_NAME)
    if shard.source:
        if urlsplit(resolve_address(address, shard.source))[:2] != urlsplit(address)[:2]:
            place = without_secrets(shard.source)[:100]
            raise UserError(f"{address}: its index names a tar that lies elsewhere, {place!r}; index it beside the tar")
        sha256 = str(read_document(columns).get("meta_sha256"))
        _copy_file(address, meta_path(made / shard.name), sha256, columns.name)


def _copy_file(address: str, path: Path, sha256: str, described: str) -> None:
    data = _part(address, path.name)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{address}: {path.name} is not the file that {described} describes; make and publish it again")
    write_durably(path, data)


def _part(address: str, name: str) -> bytes:
    try:
        return read_bytes(f"{address}/{name}")
    except Missing:
        raise UserError(f"{address}: {name} is missing, its index needs it; publish it again") from None


def _fetch(folder: CacheFolder, url: str, path: Path, size: int, sha256: str, ahead: bool = False) -> None:
    """Copies the shard to `path`; a copy that is not what the index says is made a second time."""
    if size > folder.limit:
        raise UserError(
            f"{without_secrets(url)} has {size:,} bytes, the cache {folder.path} may hold {folder.limit:,}; raise "
            "SLAM_ASR_CACHE_GB (data.cache_gb of a recipe)"
        )
    try:
        if not any(_copied(folder, url, path, size, sha256, ahead) for _ in range(2)):
            raise RemoteError(
                f"{without_secrets(url)} is not the shard that its index describes (sha256); publish it again"
            )
    except RemoteError as error:
        _failed[url] = (time.monotonic(), str(error))
        raise ShardError(str(error)) from None
    except OSError as error:
        advice = "make room" if error.errno in FULL else "look at its disk"
        raise UserError(
            f"cannot write {size:,} bytes to the cache {folder.path}: {error.strerror}; {advice}, or set SLAM_ASR_CACHE"
        ) from None


def _copied(folder: CacheFolder, url: str, path: Path, size: int, sha256: str, ahead: bool) -> bool:
    """Whether what came was right, and so is at `path` now; also where there is no room for a shard asked for ahead."""
    digest = hashlib.sha256()
    try:
        with folder.room_for(path, size, IDLE_SECONDS if ahead else None) as file:
            if file is None:
                return True
            for piece in pieces(url, size):
                file.write(piece)
                digest.update(piece)
            if digest.hexdigest() != sha256:
                raise _Wrong
    except _Wrong:
        return False
    return True


class _Wrong(Exception):
    """Bytes that are not what they must be."""


def _refuse_failed(url: str) -> None:
    """So that a thousand utterances of one lost shard do not wait for the storage one after the other."""
    when, why = _failed.get(url, (0.0, ""))
    if why and time.monotonic() - when < FAILED_SECONDS:
        raise ShardError(why)
    _failed.pop(url, None)


def _forget_old_indexes(parent: Path) -> None:
    with suppress(OSError):  # others may forget at the same time
        ours = (folder for folder in parent.iterdir() if INDEX_FOLDER.fullmatch(folder.name))
        found = sorted(ours, key=lambda folder: folder.stat().st_mtime, reverse=True)
        for folder in found[INDEX_FOLDERS:]:
            shutil.rmtree(folder, ignore_errors=True)


_queue: Queue[tuple[str, int, str]] | None = None
_queue_owner = 0


def _ahead() -> Queue[tuple[str, int, str]]:
    """The queue of this process, with its threads."""
    global _queue, _queue_owner
    if _queue is None or _queue_owner != os.getpid():
        _queue, _queue_owner = Queue(PREFETCH_QUEUE), os.getpid()
        for _ in range(PREFETCH_THREADS):
            threading.Thread(target=_fetch_ahead, args=(_queue,), name="prefetch", daemon=True).start()
    return _queue


def _fetch_ahead(queue: Queue[tuple[str, int, str]]) -> None:
    while True:
        url, size, sha256 = queue.get()
        with suppress(UserError, OSError):
            folder = cache_folder()
            folder.make()
            path = folder.copy_path(sha256)
            if SHA256.fullmatch(sha256) and not is_there(path, size):
                with folder.shard_locked(sha256):
                    if not is_there(path, size):
                        _fetch(folder, url, path, size, sha256, ahead=True)
