"""Recordings in the rows of a Parquet file.

A row can only be read with all its row group, so the groups read last are cached, up to CACHED_BYTES in a process.
Reading in the file's order costs nothing more; at random, a row costs its group: 15 ms for 11 MB, 90 ms for 85 MB."""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

from data_prep.addresses import is_remote
from data_prep.audio.decode import AudioError
from model.errors import UserError

CACHED_BYTES = 256 << 20  # of decoded row groups; one is kept whatever its size
MAX_ROWS = 5_000_000  # of a file: nulls take no room in it, and 100 bytes each in memory
MAX_COLUMN_BYTES = 2 << 30  # of one column in a row group, unpacked
CACHED_FILES = 8  # footers, which list every row group
DAMAGE = (OSError, ValueError, LookupError, MemoryError)  # what pyarrow raises for it, its own errors among them


class RowGroups:
    """The row groups read last. One thread reads at a time: others are likely to want the same group."""

    def __init__(self, max_bytes: int = CACHED_BYTES) -> None:
        self.max_bytes, self.bytes = max_bytes, 0
        self._lock = threading.Lock()
        self._groups: OrderedDict[tuple[str, int, str], Any] = OrderedDict()
        self._files: OrderedDict[str, Any] = OrderedDict()

    def value(self, path: str, row: int, column: str) -> Any:
        """An arrow scalar. AudioError past the end."""
        with self._lock:
            file, ends = self._file(path)
            if row >= ends[-1]:
                raise AudioError("bad-part", f"row {row:,} of a Parquet file of {ends[-1]:,} rows")
            group = bisect_right(ends, row)
            return self._group(file, path, group, column)[row - (ends[group - 1] if group else 0)]

    def _file(self, path: str) -> tuple[Any, list[int]]:
        """The open file and, for each row group, the number of rows to its end."""
        if path not in self._files:
            file = open_parquet(path)
            groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
            self._files[path] = file, list(accumulate(group.num_rows for group in groups)) or [0]
            if len(self._files) > CACHED_FILES:
                self._files.popitem(last=False)
        self._files.move_to_end(path)
        return self._files[path]

    def _group(self, file: Any, path: str, number: int, column: str) -> Any:
        place = path, number, column
        if place not in self._groups:
            if column not in file.schema_arrow.names:
                raise AudioError("bad-part", f"there is no column {column!r}")
            require_modest(file, [number], [column])
            self._groups[place] = file.read_row_group(number, columns=[column], use_threads=False).column(column)
            self.bytes += self._groups[place].nbytes
            while self.bytes > self.max_bytes and len(self._groups) > 1:
                self.bytes -= self._groups.popitem(last=False)[1].nbytes
        self._groups.move_to_end(place)
        return self._groups[place]


def open_parquet(path: str | Path) -> Any:
    """A pyarrow.parquet.ParquetFile. UserError where pyarrow is not installed, AudioError for what is no Parquet."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError('reading Parquet takes pyarrow; install it: pip install "slam-asr[parquet]"') from None
    try:
        file = parquet.ParquetFile(path, memory_map=True)
    except pyarrow.ArrowInvalid as error:
        raise AudioError("unreadable", f"no Parquet file: {' '.join(str(error).split())}") from None
    if file.metadata.num_rows > MAX_ROWS:
        raise AudioError("too-large", f"{file.metadata.num_rows:,} rows, at most {MAX_ROWS:,} are read; split the file")
    return file


def require_modest(file: Any, groups: Iterable[int], columns: Collection[str]) -> None:
    """AudioError where one of `columns`, or a field of it, takes more than MAX_COLUMN_BYTES unpacked in a row group."""
    for group in map(file.metadata.row_group, groups):
        for chunk in map(group.column, range(group.num_columns)):
            if chunk.total_uncompressed_size > MAX_COLUMN_BYTES and chunk.path_in_schema.split(".")[0] in columns:
                size = (
                    f"{chunk.total_uncompressed_size:,} bytes in one row group, at most {MAX_COLUMN_BYTES:,} are read"
                )
                advice = "write it with smaller row groups"
                raise AudioError("too-large", f"column {chunk.path_in_schema[:80]!r} has {size}; {advice}")


def recording_at(path: str, row: int, column: str) -> bytes:
    """The bytes of the recording in a row, counted from 0; the column holds them, or `{bytes, path}`. AudioError: no
    such row or column, no bytes in it, a damaged file."""
    if is_remote(path):
        raise AudioError("bad-part", "rows of a Parquet file are read from a local one; copy it first")
    try:
        data = _GROUPS.value(path, row, column).as_py()
    except (FileNotFoundError, UserError):
        raise
    except DAMAGE as error:
        raise AudioError("damaged", f"the row group cannot be read: {' '.join(str(error).split())}") from None
    data = data.get("bytes") if isinstance(data, dict) else data
    if not isinstance(data, bytes):
        raise AudioError("missing-audio", f"row {row:,} holds no bytes in column {column!r}")
    return data


_GROUPS = RowGroups()
