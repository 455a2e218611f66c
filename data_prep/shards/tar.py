"""Shards: plain ustar tars of `<key>.flac` (or `.f16`, `.bf16`) and `<key>.json`, written once, read by position.

The same members give the same bytes: no time, owner or pax header is in them. Reading one utterance is one `preadv` of
header, media and metadata together, the media into where they are wanted, held against the index by name, size and CRC.
Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from isal.isal_zlib import crc32  # zlib's, number for number, at ten times the speed

from data_prep.addresses import is_remote
from data_prep.durable import canonical_json, sync_folder, temporary_name, write_durably
from data_prep.shards.columns import BLOCK, COLUMNS, padded
from data_prep.shards.files import ShardError
from data_prep.shards.index import ShardIndex, ShardInfo, columns_path
from data_prep.shards.metadata import parse_metadata
from data_prep.shards.open_files import OpenFiles
from data_prep.shards.opening import metadata_path, shard_path
from model.errors import UserError
from model.sample_rate import SAMPLE_RATE

RECORD = 20 * BLOCK  # bytes: tar pads its files to it
MAX_MEDIA_BYTES = 1 << 30  # an hour of float16 frames of 2,560 numbers
MAX_META_BYTES = 2 << 20
OPEN_SHARDS = 64  # file descriptors kept


@dataclass(frozen=True)
class Sample:
    """One utterance as it lies in its shard."""

    key: str
    media: bytearray
    meta: dict[str, Any]
    """text, seconds, language, speaker, task, meta."""


class ShardWriter:
    """Writes one tar under a temporary name; `close` publishes it and its columns, an error leaves nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = temporary_name(path)
        self._file = open(self._temporary, "wb")
        self._hash = hashlib.sha256()
        self._position = 0
        self._columns: dict[str, list[Any]] = {"key": [], **{name: [] for name in COLUMNS}}

    def add(self, key: str, extension: str, media: bytes, meta: dict[str, Any], samples: int, frames: int = 0) -> None:
        """One utterance; `samples` at 16 kHz, encoder `frames` of a feature shard. ValueError past the size limits."""
        text, data = meta["text"], canonical_json(meta)
        if not 0 < len(media) <= MAX_MEDIA_BYTES or len(data) > MAX_META_BYTES:
            raise ValueError(f"{key}: {len(media):,} bytes of media and {len(data):,} of metadata are out of bounds")
        rest = bytes(-len(media) % BLOCK) + _header(f"{key}.json", len(data)) + data
        self._write(_header(f"{key}.{extension}", len(media)))
        offset = self._position
        for part in (media, rest, bytes(-len(data) % BLOCK)):
            self._write(part)
        meta_offset, crc = offset + len(media) + len(rest) - len(data), crc32(rest, crc32(media))
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
        columns_path(self.path).unlink(missing_ok=True)  # those of another tar that was here are of this one never
        sync_folder(self.path.parent)
        os.replace(self._temporary, self.path)
        sync_folder(self.path.parent)
        samples = sum(self._columns["samples"])
        shard = {"name": self.path.name, "bytes": self._position, "sha256": self._hash.hexdigest()}
        shard |= {"utterances": len(self._columns["key"]), "seconds": round(samples / SAMPLE_RATE, 4)}
        document = canonical_json({"shard": shard, "columns": self._columns, **(notes or {})})
        write_durably(columns_path(self.path), document)
        return ShardInfo(**shard, columns_sha256=hashlib.sha256(document).hexdigest())

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(OSError):  # a full disk says so once more
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._position += len(data)


def read_sample(index: ShardIndex, i: int) -> Sample:
    """Utterance `i` of the index. ShardError if the shard does not hold it, whole and unchanged. Thread-safe."""
    media = bytearray(min(int(index.length[i]), MAX_MEDIA_BYTES))
    return Sample(index.key[i], media, read_into(index, i, memoryview(media)))


def read_into(index: ShardIndex, i: int, media: memoryview) -> dict[str, Any]:
    """Reads the media of utterance `i` into `media`, of just that many bytes, and returns its metadata.

    ShardError as `read_sample`; what is in `media` then is not defined. A file that gave an error is opened anew by the
    next read. One that did not stays open, also where its path is gone or has another file since: it is the one that
    the index describes. The copy of a remote shard is looked at after an error, made anew if it is gone or damaged, and
    read once more.
    """
    shard, meta_length = int(index.shard[i]), int(index.meta_length[i])
    with _explained(index, shard, index.key[i]):
        if len(media) != index.length[i] or meta_length > MAX_META_BYTES:
            raise _Fault(f"its index declares {int(index.length[i]) + meta_length:,} bytes for it")
        read = _read_apart if index.shards[shard].source else _read_together
        meta = _meta(index.key[i], _persistently(index, shard, lambda: read(index, shard, i, media)))
        found = len(meta["text"]), len(meta["text"].encode())
        if found != (index.characters[i], index.text_bytes[i]):  # what the plan counted on
            raise _Fault("its transcript is not as long as the index says")
        return meta


def read_meta(index: ShardIndex, i: int) -> dict[str, Any]:
    """The metadata of utterance `i` alone. Its CRC, which is over the media too, is not looked at."""
    shard, length = int(index.shard[i]), int(index.meta_length[i])
    with _explained(index, shard, index.key[i]):
        if length > MAX_META_BYTES:
            raise _Fault(f"its index declares {length:,} bytes of metadata for it")
        data = _persistently(index, shard, lambda: _read_meta(index, shard, i))
        return _meta(index.key[i], data)


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
            position += BLOCK + padded(size)


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


_OPEN, _COPIES = OpenFiles(OPEN_SHARDS), OpenFiles(OPEN_SHARDS, passing=True)


class _Fault(Exception):
    """What is wrong with an utterance in its shard."""


@contextmanager
def _explained(index: ShardIndex, shard: int, key: str) -> Iterator[None]:
    """ShardError with shard and utterance for what goes wrong inside."""
    try:
        yield
    except (_Fault, OSError) as error:
        what = f"it cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
        name = index.shards[shard].label
        check = f'run "slam-asr prep check {index.home(shard)}"'
        raise ShardError(f"{name}, utterance {key}: {what}; {check}") from None


def _persistently(index: ShardIndex, shard: int, read: Callable[[], bytes]) -> bytes:
    """What `read` gives; of a remote shard at the second attempt, on a copy that was made anew."""
    try:
        return read()
    except (_Fault, OSError):
        if not is_remote(index.location(shard)):
            raise
    from data_prep.shards.cache import renew

    renew(index.location(shard), index.shards[shard].sha256)
    return read()


def _files(index: ShardIndex, shard: int) -> OpenFiles:
    return _COPIES if is_remote(index.location(shard)) else _OPEN


def _read_meta(index: ShardIndex, shard: int, i: int) -> bytes:
    data = bytearray(int(index.meta_length[i]))
    files = _OPEN if index.shards[shard].source else _files(index, shard)  # of others' tars they lie beside the index
    with files.open(metadata_path(index, shard), index.shards[shard].sha256) as descriptor:
        _fill(descriptor, [memoryview(data)], int(index.meta_offset[i]))
    return bytes(data)


def _read_together(index: ShardIndex, shard: int, i: int, media: memoryview) -> bytes:
    """Fills `media` and returns the metadata of an utterance of a tar of ours."""
    start, between = int(index.offset[i]) - BLOCK, int(index.meta_offset[i] - index.offset[i] - index.length[i])
    header, rest = bytearray(BLOCK), bytearray(between + int(index.meta_length[i]))  # `between`: padding, then a header
    with _files(index, shard).open(shard_path(index, shard), index.shards[shard].sha256) as descriptor:
        _fill(descriptor, [memoryview(header), media, memoryview(rest)], start)
        name, size = _parse_header(header)
        if name.rpartition(".")[0] != index.key[i] or size != len(media):
            raise _Fault(f"byte {start:,} holds {name[:100]!r} of {size:,} bytes")
        _require_crc(index, i, crc32(rest, crc32(media)))
    return bytes(rest[between:])


def _read_apart(index: ShardIndex, shard: int, i: int, media: memoryview) -> bytes:
    """The same for a tar of others; the metadata are in a file beside the index."""
    data = _read_meta(index, shard, i)
    with _files(index, shard).open(shard_path(index, shard), index.shards[shard].sha256) as tar:
        _fill(tar, [media], int(index.offset[i]))
        _require_crc(index, i, crc32(data, crc32(media)))
    return data


def _require_crc(index: ShardIndex, i: int, found: int) -> None:
    if found != index.crc32[i]:
        raise _Fault("its bytes have changed since they were written (CRC)")


def _fill(descriptor: int, parts: list[memoryview], position: int) -> None:
    """Reads one part after the other, from `position` on. _Fault where the file ends before."""
    while parts:
        got = os.preadv(descriptor, parts, position)
        if not got:
            raise _Fault(f"the tar ends {sum(map(len, parts)):,} bytes too early")
        position += got
        while parts and got >= len(parts[0]):
            got -= len(parts.pop(0))
        if parts:  # a network file system may give less than was asked for
            parts[0] = parts[0][got:]


def _meta(key: str, data: bytes) -> dict[str, Any]:
    try:
        return parse_metadata(data)
    except ValueError as error:
        raise _Fault(f"{key}.json is not what it must be: {error}") from None


def _header(name: str, size: int) -> bytes:
    """What tarfile writes for a plain file of mode 644 in ustar format, at a fifth of its cost."""
    block = bytearray(_PLAIN_FILE)
    block[: len(name)] = name.encode("ascii")
    block[124:135] = b"%011o" % size
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


def _plain_file() -> bytes:
    """The header of a file without name and size, its checksum's eight bytes blank, as they are summed up."""
    info = tarfile.TarInfo()
    info.mode = 0o644
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[148:156] = b" " * 8
    return bytes(block)


_PLAIN_FILE = _plain_file()


def _parse_header(header: bytes | bytearray) -> tuple[str, int]:
    """Name and size; a size that is no octal number is -1, so that it equals no length."""
    name = header[:100].split(b"\0", 1)[0].decode("ascii", "replace")
    digits = header[124:135]
    return name, int(digits, 8) if digits.isdigit() and not set(digits) & set(b"89") else -1
