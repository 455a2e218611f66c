"""Shards: plain ustar tars of `<key>.flac` (or `.f16`, `.bf16`) and `<key>.json`, written once, read by position.

The same members give the same bytes: no time, owner or pax header is in them. Reading one utterance is one `preadv` of
header, media and metadata, the media straight into the caller's memory, checked by name, size and CRC. Nothing is ever
unpickled.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from isal.isal_zlib import crc32  # zlib's, number for number, at ten times the speed

from data_prep.durable import canonical_json, sync_folder, temporary_name, write_durably
from data_prep.shards.cache import renew
from data_prep.shards.columns import BLOCK, COLUMNS, padded
from data_prep.shards.index import ShardIndex, ShardInfo, columns_path, meta_path
from data_prep.shards.metadata import Fault, parse_metadata
from data_prep.shards.open_files import OpenFiles
from data_prep.shards.opening import shard_path
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

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
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
    """Reads the media of utterance `i` into `media`, of exactly that many bytes, and returns its metadata.

    ShardError as `read_sample`; the content of `media` is then undefined. A file stays open, even when its path is
    gone or names another file: it is the one that the index describes. After an error it is opened anew by the next
    read; the copy of a remote shard is verified, made anew if it is gone or damaged, and read once more.
    """
    shard, meta_length = int(index.shard[i]), int(index.meta_length[i])
    with _explained(index, i):
        if len(media) != index.length[i] or meta_length > MAX_META_BYTES:
            raise Fault(f"its index declares {int(index.length[i]) + meta_length:,} bytes for it")
        read = _read_apart if index.shards[shard].source else _read_together
        meta = parse_metadata(index.key[i], _persistently(index, shard, lambda: read(index, shard, i, media)))
        if (len(meta["text"]), len(meta["text"].encode())) != (index.characters[i], index.text_bytes[i]):
            raise Fault("its transcript is not as long as the index says")  # which the plan counts on
        return meta


def read_meta(index: ShardIndex, i: int) -> dict[str, Any]:
    """The metadata of utterance `i` alone, without its CRC, which is over the media too."""
    shard, length = int(index.shard[i]), int(index.meta_length[i])
    with _explained(index, i):
        if length > MAX_META_BYTES:
            raise Fault(f"its index declares {length:,} bytes of metadata for it")
        return parse_metadata(index.key[i], _persistently(index, shard, lambda: _read_meta(index, shard, i)))


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


@contextmanager
def _explained(index: ShardIndex, i: int) -> Iterator[None]:
    """ShardError for what goes wrong with utterance `i` inside."""
    try:
        yield
    except Fault as error:
        raise index.error(i, str(error)) from None
    except OSError as error:
        raise index.error(i, f"it cannot be read ({error.strerror})") from None


def _persistently(index: ShardIndex, shard: int, read: Callable[[], bytes]) -> bytes:
    """The result of `read`; of a remote shard at the second attempt, on a verified copy."""
    try:
        return read()
    except (Fault, OSError):
        if index.places[shard][1] is not None:
            raise
    renew(index.location(shard), index.shards[shard].sha256)
    return read()


def _open_tar(index: ShardIndex, shard: int) -> AbstractContextManager[int]:
    files = _COPIES if index.places[shard][1] is None else _OPEN
    return files.open(shard_path(index, shard), index.shards[shard].sha256)


def _read_meta(index: ShardIndex, shard: int, i: int) -> bytes:
    data, info = bytearray(int(index.meta_length[i])), index.shards[shard]
    opened = _OPEN.open(meta_path(index.root / info.name), info.sha256) if info.source else _open_tar(index, shard)
    with opened as descriptor:
        _fill(descriptor, [memoryview(data)], int(index.meta_offset[i]))
    return bytes(data)


def _read_together(index: ShardIndex, shard: int, i: int, media: memoryview) -> bytes:
    """Fills `media` and returns the metadata of an utterance, for a tar that this program wrote."""
    start, between = int(index.offset[i]) - BLOCK, int(index.meta_offset[i] - index.offset[i] - index.length[i])
    header, rest = bytearray(BLOCK), bytearray(between + int(index.meta_length[i]))  # `between`: padding, then a header
    with _open_tar(index, shard) as tar:
        _fill(tar, [memoryview(header), media, memoryview(rest)], start)
        name, size = _parse_header(header)
        if name.rpartition(".")[0] != index.key[i] or size != len(media):
            raise Fault(f"byte {start:,} holds {name[:100]!r} of {size:,} bytes")
        _require_crc(index, i, crc32(rest, crc32(media)))
    return bytes(rest[between:])


def _read_apart(index: ShardIndex, shard: int, i: int, media: memoryview) -> bytes:
    """The same for a tar indexed in place, whose metadata lies in a file beside the index."""
    data = _read_meta(index, shard, i)
    with _open_tar(index, shard) as tar:
        _fill(tar, [media], int(index.offset[i]))
        _require_crc(index, i, crc32(data, crc32(media)))
    return data


def _require_crc(index: ShardIndex, i: int, crc: int) -> None:
    if crc != index.crc32[i]:
        raise Fault("its bytes have changed since they were written (CRC)")


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
