"""Files that appear whole or not at all, and JSON that is the same bytes for the same value."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes `path`'s place, synced to disk, when the block ends without an error."""
    temporary = temporary_name(path)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def temporary_name(path: Path) -> Path:
    """A name beside `path` to write under: no other process takes it, on this host or on one that shares the folder."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def write_durably(path: Path, data: bytes) -> None:
    """`data` as the whole of `path`, on disk when this returns."""
    with replacing(path) as file:
        file.write(data)


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
    """Lone surrogates, as of a path's bytes that are no UTF-8, which no file can hold, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def strict_json(data: bytes) -> Any:
    """The value of UTF-8 JSON (a byte-order mark is passed over); ValueError for NaN, Inf and repeated fields."""
    return json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant, object_pairs_hook=_object)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return fields
