"""Shards: plain ustar tars of `<key>.flac` (or `.f16`, `.bf16`) and `<key>.json`, written once, read by position.

The same members give the same bytes: no time, owner or pax header is in them. Reading one utterance is one `preadv` of
header, media and metadata, the media straight into the caller's memory, checked by name, size and CRC. Nothing is ever
unpickled."""

import hashlib
import os
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isal.isal_zlib import crc32  # zlib's, number for number, at ten times the speed

from data_prep.durable import canonical_json, sync_folder, temporary_name, write_durably
from data_prep.shards import index as names
from data_prep.shards.cache import renew
from data_prep.shards.index import BLOCK, COLUMNS, Fault, ShardIndex, ShardInfo, columns_path, meta_path, padded
from data_prep.shards.opening import shard_path
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
    meta: dict[str, Any]  # text, seconds, language, speaker, task, meta


class ShardWriter:
    """Writes one tar under a temporary name; `close` publishes it and its columns, an error leaves nothing behind."""

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
        """Ends the tar, syncs and renames it, then writes its columns, with `notes` beside them in the same file."""
        self._write(bytes(2 * BLOCK))
        self._write(bytes(-self._position % RECORD))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        columns_path(self.path).unlink(missing_ok=True)  # of another tar that was here: they must not describe this one
        sync_folder(self.path.parent)
        os.replace(self._temporary, self.path)
        sync_folder(self.path.parent)
        samples = sum(self._columns["samples"])
        shard = {"name": self.path.name, "bytes": self._position, "sha256": self._hash.hexdigest()}
        shard |= {"utterances": len(self._columns["key"]), "seconds": round(samples / SAMPLE_RATE, 4)}
        document = canonical_json({"shard": shard, "columns": self._columns, **(notes or {})})
        write_durably(columns_path(self.path), document)
        return ShardInfo(**shard, columns_sha256=hashlib.sha256(document).hexdigest())

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # a full disk fails once more
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
    """Reads the media of utterance `i` into `media`, of exactly that many bytes, and returns its metadata. ShardError
    as `read_sample`; the content of `media` is then undefined. A file stays open, even when its path is gone or names
    another file: it is the one that the index describes. After an error it is opened anew by the next read; the copy of
    a remote shard is verified, made anew if it is gone or damaged, and read once more."""
    meta = _read(index, i, media)
    if (len(meta["text"]), len(meta["text"].encode())) != (index.characters[i], index.text_bytes[i]):
        raise index.error(i, "its transcript is not as long as the index says")  # which the plan counts on
    return meta


def read_meta(index: ShardIndex, i: int) -> dict[str, Any]:
    """The metadata of utterance `i` alone, without its CRC, which is over the media too."""
    return _read(index, i, None)


def walk(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, offset of the data, size) of each member by its headers. ValueError for a tar of another program."""
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


class OpenFiles:
    """The files read last, at most `limit`, shared by threads; one in use is closed only by its last reader. `passing`:
    those whose file was removed are closed when the next one is opened, which frees their disk space."""

    def __init__(self, limit: int, passing: bool = False) -> None:
        self._limit, self._passing = limit, passing
        self._lock = threading.Lock()
        self._files: OrderedDict[tuple[str, str], _Descriptor] = OrderedDict()

    @contextmanager
    def open(self, path: Path, identity: str) -> Iterator[int]:
        """The descriptor. Whatever is raised while it is in use makes the next use open the path anew."""
        key = (os.fspath(path), identity)
        with self._lock:
            file = self._files.get(key)
            if file is None:
                for other in [k for k, f in self._files.items() if self._passing and not os.fstat(f.number).st_nlink]:
                    del self._files[other]
                file = self._files[key] = _Descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
                if len(self._files) > self._limit:
                    self._files.popitem(last=False)
            self._files.move_to_end(key)
        try:
            yield file.number
        except BaseException:
            with self._lock:
                if self._files.get(key) is file:
                    del self._files[key]
            raise


class _Descriptor:
    """An open file, which is closed when nothing refers to it any more."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self, close=os.close) -> None:
        close(self.number)


_OPEN, _COPIES = OpenFiles(OPEN_SHARDS), OpenFiles(OPEN_SHARDS, passing=True)


def _read(index: ShardIndex, i: int, media: memoryview | None) -> dict[str, Any]:
    """The metadata of utterance `i`; fills `media`, unless it is None. ShardError for what goes wrong."""
    shard, length, meta_length = int(index.shard[i]), int(index.length[i]), int(index.meta_length[i])
    if meta_length > MAX_META_BYTES or (media is not None and len(media) != length):
        raise index.error(i, f"its index declares {length + meta_length:,} bytes for it")
    try:
        try:
            data = _read_bytes(index, shard, i, media)
        except (Fault, OSError):
            if index.places[shard][1] is not None:
                raise
            renew(index.location(shard), index.shards[shard].sha256)
            data = _read_bytes(index, shard, i, media)
        return names.parse_metadata(index.key[i], data)
    except Fault as error:
        raise index.error(i, str(error)) from None
    except OSError as error:
        raise index.error(i, f"it cannot be read ({error.strerror})") from None


def _read_bytes(index: ShardIndex, shard: int, i: int, media: memoryview | None) -> bytes:
    """As `_read`: the bytes of the metadata. Those of a tar indexed in place lie in a file beside the index."""
    info, offset, meta_offset = index.shards[shard], int(index.offset[i]), int(index.meta_offset[i])
    data = bytearray(int(index.meta_length[i]))
    if info.source:
        with _OPEN.open(meta_path(index.root / info.name), info.sha256) as metas:
            _fill(metas, [memoryview(data)], meta_offset)
        if media is None:
            return bytes(data)
    files = _COPIES if index.places[shard][1] is None else _OPEN
    with files.open(shard_path(index, shard), info.sha256) as tar:
        if media is None:
            _fill(tar, [memoryview(data)], meta_offset)
            return bytes(data)
        if info.source:
            _fill(tar, [media], offset)
            crc = crc32(media)
        else:
            header, between = bytearray(BLOCK), bytearray(meta_offset - offset - len(media))  # padding, then a header
            _fill(tar, [memoryview(header), media, memoryview(between), memoryview(data)], offset - BLOCK)
            name, size = _parse_header(header)
            if name.rpartition(".")[0] != index.key[i] or size != len(media):
                raise Fault(f"byte {offset - BLOCK:,} holds {name[:100]!r} of {size:,} bytes")
            crc = crc32(between, crc32(media))
        if crc32(data, crc) != index.crc32[i]:
            raise Fault("its bytes have changed since they were written (CRC)")
    return bytes(data)


def _fill(descriptor: int, parts: list[memoryview], position: int) -> None:
    """Reads one part after the other, from `position` on. Fault where the file ends before."""
    while parts:
        got = os.preadv(descriptor, parts, position)
        if not got:
            raise Fault(f"the tar ends {sum(map(len, parts)):,} bytes too early")
        position += got
        while parts and got >= len(parts[0]):
            got -= len(parts.pop(0))
        if parts:  # a network file system may give less than was asked for
            parts[0] = parts[0][got:]


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


def _parse_header(header: bytes | bytearray) -> tuple[str, int]:
    """Name and size; a size that is no octal number is -1, so that it equals no length."""
    name = header[:100].split(b"\0", 1)[0].decode("ascii", "replace")
    digits = header[124:135]
    return name, int(digits, 8) if digits.isdigit() and not set(digits) & set(b"89") else -1
