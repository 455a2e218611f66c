"""Reads CTranslate2's model.bin: a header, then named arrays, then aliases of names (its src/models/model.cc).

All integers are little-endian; a string is its length with a closing zero (uint16), then its bytes:

    version uint32 | name of the specification | revision uint32
    number of arrays uint32, then for each: name | rank uint8 | dimensions uint32 ... | type uint8 | bytes uint32 | data
    number of aliases uint32, then for each: alias | name of an array
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.durable import read_regular
from model.errors import UserError

VERSIONS = range(4, 7)  # before 4 an array had the size of an item in place of its type
DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}  # numpy's names; 5, bfloat16, has none
MAX_BYTES, MAX_RANK = 4_000_000_000, 8


class Model(NamedTuple):
    """The content of a model.bin."""

    specification: str
    arrays: dict[str, Any]
    """numpy arrays by name and by alias: read-only views of the file's bytes."""


def read_model(path: Path) -> Model:
    """The content of the whole file. UserError if it is truncated, does not match its own counts and sizes, has an
    array twice, or is larger than MAX_BYTES; no more memory is allocated than the size of the file."""
    try:
        return _read(_Bytes(read_regular(path, MAX_BYTES)))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} cannot be read as a model of CTranslate2: {why}; fetch it again") from None


class _Bytes:
    """A file's bytes, read from start to end. ValueError for reading past the end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = memoryview(data), 0

    def take(self, length: int) -> memoryview:
        if length > len(self.data) - self.at:
            raise ValueError(f"it ends {length - (len(self.data) - self.at):,} bytes early")
        self.at += length
        return self.data[self.at - length : self.at]

    def integer(self, length: int) -> int:
        return int.from_bytes(self.take(length), "little")

    def string(self) -> str:
        return bytes(self.take(self.integer(2))).rstrip(b"\0").decode()


def _read(file: _Bytes) -> Model:
    version = file.integer(4)
    if version not in VERSIONS:
        raise ValueError(f"its version is {version}, supported are {VERSIONS[0]} to {VERSIONS[-1]}")
    specification, _ = file.string(), file.integer(4)
    arrays: dict[str, Any] = {}
    for _ in range(file.integer(4)):
        name = _new(file.string(), arrays)
        arrays[name] = _array(file, name)
    for _ in range(file.integer(4)):
        alias, name = _new(file.string(), arrays), file.string()
        if name not in arrays:
            raise ValueError(f"{alias[:80]!r} is an alias of {name[:80]!r}, which does not exist")
        arrays[alias] = arrays[name]
    if file.at < len(file.data):
        raise ValueError(f"{len(file.data) - file.at:,} bytes follow its end")
    return Model(specification, arrays)


def _new(name: str, arrays: dict[str, Any]) -> str:
    if name in arrays:
        raise ValueError(f"{name[:80]!r} is there twice")
    return name


def _array(file: _Bytes, name: str) -> Any:
    import numpy as np

    rank = file.integer(1)
    if rank > MAX_RANK:
        raise ValueError(f"{name[:80]!r} has {rank} dimensions, at most {MAX_RANK} are read")
    shape = [file.integer(4) for _ in range(rank)]
    kind, size = file.integer(1), file.integer(4)
    if kind not in DTYPES:
        raise ValueError(f"{name[:80]!r} is of type {kind}, supported are {', '.join(map(str, DTYPES))}")
    dtype = np.dtype(DTYPES[kind])
    if size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name[:80]!r} of shape {shape} and type {dtype.name} has {size:,} bytes")
    return np.frombuffer(file.take(size), dtype).reshape(shape)
