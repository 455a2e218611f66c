"""Remote datasets on this machine: shards as verified copies in a bounded cache (cache_folder.py), the index as files.

A shard is copied whole and checked by its sha256 on the way, once for all processes of the machine.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from queue import Full, Queue
from typing import BinaryIO
from urllib.parse import urlsplit

from data_prep.addresses import is_remote, resolve_address, without_secrets
from data_prep.durable import replacing, write_durably
from data_prep.remote.objects import pieces, read_bytes, require_bare
from data_prep.retries import Missing, RemoteError
from data_prep.shards.cache_folder import CacheFolder, cache_folder, is_there
from data_prep.shards.files import document_of, read_document, read_files, shard_info
from data_prep.shards.index import INDEX_NAME, ShardError, ShardIndex, ShardInfo, columns_path, meta_path
from model.errors import UserError
from model.files import file_sha256

SHA256 = re.compile(r"[0-9a-f]{64}")
INDEX_FOLDER = re.compile(r"[0-9a-f]{64}(\.[0-9]+-[0-9]+\.tmp)?")
FAILED_SECONDS = 30.0  # during which a shard that could not be copied is not asked for again
INDEX_FOLDERS = 64  # indexes kept, the most recently used
PARALLEL_FILES = 8
PREFETCH_THREADS, PREFETCH_QUEUE = 2, 64
_failed: dict[str, tuple[float, str]] = {}


class _Mismatch(Exception):
    """Bytes of another sha256."""


def local_copy(url: str, size: int, sha256: str) -> Path:
    """The shard as a file, copied if need be; it may be gone a moment later (`renew`).

    ShardError: it is not there, cannot be read, is not what its index says. UserError: too large for the cache, no
    space left.
    """
    if not SHA256.fullmatch(sha256):
        raise ShardError(f"{without_secrets(url)}: its index gives {sha256[:80]!r} for its sha256; publish it again")
    folder = cache_folder()
    path = folder.copy_path(sha256)
    if not is_there(path, size):
        _refuse_failed(url)
        with folder.shard_locked(sha256):
            if not is_there(path, size):
                path.unlink(missing_ok=True)  # of another size: damaged
                _copy_shard(folder, url, path, size, sha256)
    return path


def renew(url: str, sha256: str) -> None:
    """Removes a damaged copy, so that a reader that failed gets a new one at its second attempt."""
    _refuse_failed(url)
    with cache_folder().shard_locked(sha256) as path, suppress(FileNotFoundError):
        if path.is_symlink() or file_sha256(path) != sha256:
            path.unlink()


def prefetch(index: ShardIndex, shards: Iterable[int]) -> None:
    """Starts copying shards that will soon be read, in this order, and returns at once; errors are not raised."""
    for shard in shards:
        info, place = index.shards[shard], index.location(shard)
        if is_remote(place):
            with suppress(Full):
                _prefetch_queue(os.getpid()).put_nowait((place, info.bytes, info.sha256))


def read_remote_index(address: str) -> ShardIndex:
    """The index of a remote dataset: index.json is always read anew, its columns come from the cache.

    UserError, which names the address: no dataset there, an unfinished one, files that index.json does not describe.
    """
    try:
        document = read_bytes(f"{require_bare(address)}/{INDEX_NAME}")
    except Missing:
        problem = f"{address} has no {INDEX_NAME}: there is no dataset, or an unfinished one"
        raise UserError(f"{problem}; run the command that builds it again") from None
    cache = cache_folder()
    # The hash is of both, so that no dataset meets the files of another.
    folder = cache.path / "indexes" / hashlib.sha256(address.encode() + b"\0" + document).hexdigest()
    try:
        cache.make()
        if not (folder / INDEX_NAME).exists():
            _copy_index(address, document, folder)
            _forget_old_indexes(folder.parent)
        os.utime(folder)
        return read_files(folder, address)
    except UserError as error:
        local = re.escape(str(folder)) + r"(\.[0-9]+-[0-9]+\.tmp)?"
        raise UserError(re.sub(local, lambda _: address, str(error))) from None
    except OSError as error:
        raise cache.unusable(error) from None


def _copy_index(address: str, document: bytes, folder: Path) -> None:
    """index.json and the files that it needs, as `folder`, which appears whole."""
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}-{time.monotonic_ns()}.tmp")
    temporary.mkdir(mode=0o700)
    try:
        write_durably(temporary / INDEX_NAME, document)
        shards = [shard_info(temporary, entry) for entry in document_of(temporary)["shards"]]
        with ThreadPoolExecutor(PARALLEL_FILES) as pool:
            list(pool.map(lambda shard: _copy_columns(address, shard, temporary), shards))
        with suppress(OSError):  # another process was faster
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _copy_columns(address: str, shard: ShardInfo, folder: Path) -> None:
    """The shard's columns and, if its tar is indexed in place, its metadata, each verified by the file before it."""
    columns = columns_path(folder / shard.name)
    _copy_file(address, columns, shard.columns_sha256, INDEX_NAME)
    if shard.source:
        if urlsplit(resolve_address(address, shard.source))[:2] != urlsplit(address)[:2]:
            place = without_secrets(shard.source)[:100]
            raise UserError(f"{address}: its index names a tar that lies elsewhere, {place!r}; index it beside the tar")
        meta_sha256 = str(read_document(columns).get("meta_sha256"))
        _copy_file(address, meta_path(folder / shard.name), meta_sha256, columns.name)


def _copy_file(address: str, path: Path, sha256: str, described_by: str) -> None:
    try:
        with replacing(path) as file:
            _write_verified(file, [read_bytes(f"{address}/{path.name}")], sha256)
    except Missing:
        raise UserError(f"{address}: {path.name} is missing, its index needs it; publish it again") from None
    except _Mismatch:
        problem = f"{path.name} is not the file that {described_by} describes"
        raise UserError(f"{address}: {problem}; make and publish it again") from None


def _copy_shard(folder: CacheFolder, url: str, path: Path, size: int, sha256: str) -> None:
    """Copies the shard to `path`, a second time if the first copy is damaged."""
    if size > folder.limit:
        problem = f"{without_secrets(url)} has {size:,} bytes, the cache {folder.path} may hold {folder.limit:,}"
        raise UserError(f"{problem}; raise SLAM_ASR_CACHE_GB (data.cache_gb of a recipe)")
    try:
        for _ in range(2):
            with suppress(_Mismatch), folder.room_for(path, size) as file:
                _write_verified(file, pieces(url, size), sha256)
                return
        raise RemoteError(f"{without_secrets(url)} is not what its index describes (sha256); publish it again")
    except RemoteError as error:
        _failed[url] = (time.monotonic(), str(error))
        raise ShardError(str(error)) from None
    except OSError as error:
        problem = f"cannot write {size:,} bytes to the cache {folder.path}: {error.strerror}"
        raise UserError(f"{problem}; make room, check its disk, or set SLAM_ASR_CACHE") from None


def _write_verified(file: BinaryIO, parts: Iterable[bytes], sha256: str) -> None:
    """_Mismatch, once all is written, for bytes of another hash."""
    digest = hashlib.sha256()
    for part in parts:
        file.write(part)
        digest.update(part)
    if digest.hexdigest() != sha256:
        raise _Mismatch


def _refuse_failed(url: str) -> None:
    """ShardError for a shard that failed lately, so that its utterances do not wait for the storage one by one."""
    when, why = _failed.get(url, (0.0, ""))
    if why and time.monotonic() - when < FAILED_SECONDS:
        raise ShardError(why)
    _failed.pop(url, None)


def _forget_old_indexes(parent: Path) -> None:
    with suppress(OSError):  # another process may remove them at the same time
        ours = (folder for folder in parent.iterdir() if INDEX_FOLDER.fullmatch(folder.name))
        for folder in sorted(ours, key=lambda folder: folder.stat().st_mtime, reverse=True)[INDEX_FOLDERS:]:
            shutil.rmtree(folder, ignore_errors=True)


@lru_cache(maxsize=1)
def _prefetch_queue(pid: int) -> Queue[tuple[str, int, str]]:
    """The queue of this process, with its threads; a fork has to make its own."""
    queue: Queue[tuple[str, int, str]] = Queue(PREFETCH_QUEUE)
    for _ in range(PREFETCH_THREADS):
        threading.Thread(target=_prefetch_from, args=(queue,), name="prefetch", daemon=True).start()
    return queue


def _prefetch_from(queue: Queue[tuple[str, int, str]]) -> None:
    while True:
        with suppress(UserError, OSError):
            local_copy(*queue.get())
