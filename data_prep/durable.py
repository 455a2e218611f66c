"""Files that appear whole or not at all, locks on files and folders, JSON that is the same bytes for the same value."""

import errno
import fcntl
import json
import math
import os
import re
import shutil
import socket
import stat
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from model.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a quota or a file that cannot grow
ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # of a file system without locks: Lustre with noflock


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[BinaryIO]:
    """A file to write to that takes `path`'s place when the block ends without an error; synced to disk by then. An
    OSError of writing it names `path`. Without `sync`, a power cut may lose it."""
    temporary = temporary_name(path)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            unnamed = error.filename is None and error.errno in FULL  # write() and fsync() name no file
            if unnamed or error.filename == os.fspath(temporary):
                error.filename = os.fspath(path)
        raise
    if sync:
        sync_folder(path.parent)


def write_durably(path: Path, data: bytes) -> None:
    """`data` as the whole of `path`, on disk when this returns."""
    with replacing(path) as file:
        file.write(data)


def write_whole(path: Path, data: bytes | bytearray) -> None:
    """`data` as the whole of `path`, which appears whole or not at all; a power cut may lose it."""
    with replacing(path, sync=False) as file:
        file.write(data)


def temporary_name(path: Path) -> Path:
    """A name beside `path` to write under: no other process takes it, on this host or on one that shares the folder."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """The file, opened for reading. OSError for a pipe, which may have no writer, and a device, which may never end."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is a pipe or a device, no plain file", os.fspath(path))
    return file


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """The whole file. OSError as `open_regular`; ValueError for more than `limit` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ValueError(f"it has more than {limit:,} bytes")
        return file.read(size)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder, renamed to `folder` after the block, whole and synced. If the block raises, nothing is
    left."""
    parent = folder.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=parent, prefix=f".{folder.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's folder is closed to others
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(parent)


def sync_folder(folder: Path) -> None:
    """Makes renames and removals in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def canonical_json(value: Any, indent: int | None = None) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces (unless indented); ValueError for NaN, Inf and lone surrogates."""
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=separators, indent=indent)
    return text.encode("utf-8")


def encodable(text: str) -> str:
    """The text with lone surrogates, as of a path that is not UTF-8, as escapes; UTF-8 cannot hold them."""
    return text.encode("utf-8", "backslashreplace").decode()


def strict_json(data: bytes) -> Any:
    """The value of UTF-8 JSON (a byte-order mark is passed over). ValueError for what `canonical_json` could not write:
    NaN, Inf, 1e999, a lone surrogate; and for repeated fields."""
    text = data.decode("utf-8-sig")
    value = json.loads(text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=_object)
    if ESCAPED_SURROGATE.search(data):
        canonical_json(value)
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not JSON")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError(f"field {repeated(name for name, _ in pairs)[:80]!r} is there twice")
    return fields


def repeated(names: Iterable[str]) -> str:
    """A name that occurs twice; empty where there is none."""
    return next((name for name, count in Counter(names).items() if count > 1), "")


def records(lines: Iterable[str] | Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON objects among lines that another process may still be writing, or was killed while writing; anything
    else, such as half a line, is skipped."""
    for line in lines:
        with suppress(ValueError):
            if isinstance(record := json.loads(line), dict):
                yield record


def read_records(path: Path, last_bytes: int | None = None) -> list[dict[str, Any]]:
    """The records of a file, or only those that begin in its last bytes; none if there is no such file."""
    try:
        with open(path, "rb") as file:
            skipped = max(0, os.fstat(file.fileno()).st_size - last_bytes) if last_bytes is not None else 0
            file.seek(skipped)
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    return list(records(lines[1:] if skipped else lines))


def lock(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Whether the open file or folder is now locked (flock) by this process, rather than held by another; the system
    drops the lock when the process ends, however it ends. Shared locks are compatible with each other. With `wait`,
    returns only once it is locked. OSError with an errno in NO_LOCKS on a file system without locks."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked_folder(folder: Path, busy: Callable[[], UserError]) -> Iterator[None]:
    """Makes the folder and locks it for the time of the block; raises `busy()` if another process has locked it. Where
    folders cannot be locked, as on NFS, it is not. UserError for a folder that cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; give another folder") from None
    try:
        try:
            locked = lock(descriptor)
        except OSError:
            locked = True
        if not locked:
            raise busy()
        yield
    finally:
        os.close(descriptor)
