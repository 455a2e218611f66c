"""Files that appear whole or not at all, and JSON that is the same bytes for the same value."""

import errno
import json
import math
import os
import re
import socket
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a quota or a file that cannot grow
ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


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
