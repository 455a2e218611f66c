"""Shards: plain ustar tars of `<key>.flac` (or `.f16`, `.bf16`) and `<key>.json`, written once, read by position.

The same members give the same bytes: no time, owner or pax header is in them. Reading one utterance is one `pread` of
header, media and metadata together, held against the index by name, size and CRC. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from data_prep.columns import BLOCK, COLUMNS
from data_prep.durable import canonical_json, strict_json, sync_folder, write_durably
from data_prep.index import ShardIndex, ShardInfo, columns_path
from model.errors import UserError

RECORD = 20 * BLOCK  # bytes: tar pads its files to it
MAX_MEDIA_BYTES = 1 << 30  # an hour of float16 frames of 2,560 numbers
MAX_META_BYTES = 2 << 20
META = {"text", "seconds", "language", "speaker", "task", "meta"}  # at least these, in every `<key>.json`
OPEN_SHARDS = 64  # file descriptors kept


class ShardError(UserError):
    """A shard that does not hold what its index says."""


@dataclass(frozen=True)
class Sample:
    """One utterance as it lies in its shard."""

    key: str
    media: bytes
    meta: dict[str, Any]
    """text, seconds, language, speaker, task, meta."""


class ShardWriter:
    """Writes one tar under a temporary name; `close` publishes it and its columns, an error leaves nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._file = open(self._temporary, "wb")
        self._hash = hashlib.sha256()
        self._position = 0
        self._columns: dict[str, list[Any]] = {"key": [], **{name: [] for name in COLUMNS}}

    def add(self, key: str, extension: str, media: bytes, meta: dict[str, Any], samples: int, frames: int = 0) -> None:
        """One utterance; `samples` at 16 kHz, encoder `frames` of a feature shard. ValueError past the size limits."""
        text, data = meta["text"], canonical_json(meta)
        if not 0 < len(media) <= MAX_MEDIA_BYTES or len(data) > MAX_META_BYTES:
            raise ValueError(f"{key}: {len(media):,} bytes of media and {len(data):,} of metadata are out of bounds")
        rest = _pad(media) + _header(f"{key}.json", len(data)) + data
        self._write(_header(f"{key}.{extension}", len(media)))
        offset = self._position
        for part in (media, rest, _pad(data)):
            self._write(part)
        meta_offset, crc = offset + len(media) + len(rest) - len(data), zlib.crc32(rest, zlib.crc32(media))
        row = {"key": key, "offset": offset, "length": len(media), "crc32": crc, "meta_offset": meta_offset}
        row |= {"meta_length": len(data), "samples": samples, "frames": frames}
        row |= {"characters": len(text), "text_bytes": len(text.encode())}
        for name, values in self._columns.items():
            values.append(row[name])

    def close(self, notes: dict[str, Any] | None = None) -> ShardInfo:
        """Ends the tar, syncs and renames it, then does the same for its columns; `notes` are kept beside those."""
        self._write(bytes(2 * BLOCK))
        self._write(bytes(-self._position % RECORD))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self.path)
        sync_folder(self.path.parent)
        samples = sum(self._columns["samples"])
        shard = {"name": self.path.name, "bytes": self._position, "sha256": self._hash.hexdigest()}
        shard |= {"utterances": len(self._columns["key"]), "seconds": round(samples / 16000, 4)}
        document = canonical_json({"shard": shard, "columns": self._columns, **(notes or {})})
        write_durably(columns_path(self.path), document)
        return ShardInfo(**shard, columns_sha256=hashlib.sha256(document).hexdigest())

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._position += len(data)


def read_sample(index: ShardIndex, i: int) -> Sample:
    """Utterance `i` of the index. ShardError if the shard does not hold it, whole and unchanged. Thread-safe."""
    key, shard = index.key[i], int(index.shard[i])
    offset, length = int(index.offset[i]), int(index.length[i])
    meta_offset, meta_length = int(index.meta_offset[i]), int(index.meta_length[i])
    if length > MAX_MEDIA_BYTES or meta_length > MAX_META_BYTES:
        raise _broken(index, shard, key, f"its index declares {length + meta_length:,} bytes for it")
    start, end = offset - BLOCK, meta_offset + meta_length
    data = _pread(index, shard, key, start, end - start)
    name, size = _parse_header(data[:BLOCK])
    if name.rpartition(".")[0] != key or size != length:
        raise _broken(index, shard, key, f"byte {start:,} holds {name[:100]!r} of {size:,} bytes")
    if zlib.crc32(memoryview(data)[BLOCK:]) != int(index.crc32[i]):
        raise _broken(index, shard, key, "its bytes have changed since they were written (CRC)")
    return Sample(key, data[BLOCK : BLOCK + length], _meta(index, shard, key, data[meta_offset - start :]))


def walk(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, offset of the data, size) of each member, by its headers alone. ValueError for a tar that is not ours."""
    with open(path, "rb") as file:
        total = file.seek(0, os.SEEK_END)
        position = 0
        while True:
            file.seek(position)
            header = file.read(BLOCK)
            if header == bytes(BLOCK):
                return
            if len(header) < BLOCK:
                raise ValueError(f"the tar ends at byte {total:,}, within or before a header")
            name, size = _parse_header(header)
            if size < 0 or header != _header(name, size):
                raise ValueError(f"byte {position:,} is no header of a plain file as this program writes it")
            if position + BLOCK + size > total:
                raise ValueError(f"member {name} declares {size:,} bytes, the tar ends before")
            yield name, position + BLOCK, size
            position += BLOCK + size + -size % BLOCK


def stream(paths: Sequence[str | os.PathLike[str]]) -> Any:
    """`webdataset.WebDataset` over local shards, in order, raw bytes: never call `.decode()` on it, it can unpickle."""
    from webdataset import utils
    from webdataset.compat import WebDataset

    utils.enforce_security = True  # no pipes, no pickles  # pyright: ignore[reportAttributeAccessIssue]
    files = [os.path.abspath(path) for path in paths]
    missing = [file for file in files if not os.path.isfile(file)]
    if missing or not files:
        raise UserError(f"no shard {missing[0] if missing else 'given'}; only local tar files are streamed")
    return WebDataset(files, shardshuffle=False, nodesplitter=None)


class _OpenShards:
    """A bounded set of open files, shared by threads; one that is being read is not closed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._files: OrderedDict[tuple[str, str], list[int]] = OrderedDict()  # [descriptor, readers]

    @contextmanager
    def open(self, path: Path, identity: str) -> Iterator[int]:
        key = (os.fspath(path), identity)
        with self._lock:
            entry = self._files.get(key)
            if entry is None:
                entry = self._files[key] = [os.open(path, os.O_RDONLY | os.O_CLOEXEC), 0]
            entry[1] += 1
            self._files.move_to_end(key)
        try:
            yield entry[0]
        finally:
            with self._lock:
                entry[1] -= 1
                self._close_oldest()

    def _close_oldest(self) -> None:
        idle = [key for key, (_, readers) in self._files.items() if not readers]
        for key in idle[: max(0, len(self._files) - self._limit)]:
            os.close(self._files.pop(key)[0])


_OPEN = _OpenShards(OPEN_SHARDS)


def _meta(index: ShardIndex, shard: int, key: str, data: bytes) -> dict[str, Any]:
    try:
        meta = strict_json(data)
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict) or not META <= set(meta) or not isinstance(meta["text"], str):
        raise _broken(index, shard, key, f"{key}.json has not the fields {', '.join(sorted(META))}")
    return meta


def _pread(index: ShardIndex, shard: int, key: str, start: int, count: int) -> bytes:
    try:
        with _OPEN.open(index.path(shard), index.shards[shard].sha256) as descriptor:
            data = os.pread(descriptor, count, start)
            while data and len(data) < count:  # a network file system may give less than was asked for
                more = os.pread(descriptor, count - len(data), start + len(data))
                if not more:
                    break
                data += more
    except OSError as error:
        raise _broken(index, shard, key, f"it cannot be read ({error.strerror})") from None
    if len(data) < count:
        raise _broken(index, shard, key, f"the tar ends {count - len(data):,} bytes too early")
    return data


def _broken(index: ShardIndex, shard: int, key: str, what: str) -> ShardError:
    name = index.shards[shard].name
    return ShardError(f'{name}, utterance {key}: {what}; run "slam-asr prep check {index.root}"')


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def _pad(data: bytes) -> bytes:
    return bytes(-len(data) % BLOCK)


def _parse_header(header: bytes) -> tuple[str, int]:
    """Name and size; a size that is no octal number is -1, so that it equals no length."""
    name = header[:100].split(b"\0", 1)[0].decode("ascii", "replace")
    digits = header[124:135]
    return name, int(digits, 8) if digits.isdigit() and not set(digits) & set(b"89") else -1
