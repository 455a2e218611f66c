"""`ShardIndex`, the contract between shards and everything that reads them.

A dataset directory holds `shard-000000.tar`, its columns `shard-000000.idx.json` ... and `index.json`, which lists the
shards with their sizes and hashes and is written last: a directory without it is unfinished. opening.py reads them."""

import hashlib
import re
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from data_prep.addresses import is_remote, resolve_address, without_secrets
from data_prep.audio.cuts import MAX_SECONDS
from data_prep.durable import canonical_json, strict_json, write_durably
from data_prep.utterance import KEY
from model.errors import UserError
from model.sample_rate import SAMPLE_RATE

FORMAT, VERSION = "slam-asr-shards", 1
INDEX_NAME = "index.json"
SHARD_NAME = re.compile(r"shard-[0-9]{6}\.tar")
BLOCK = 512  # bytes: what tar counts in
COLUMNS = {
    "offset": np.int64,  # of the media's first byte in the tar
    "length": np.int64,  # of the media, in bytes
    "crc32": np.uint32,  # of all bytes from the media's first to the metadata's last
    "meta_offset": np.int64,
    "meta_length": np.int64,
    "samples": np.int64,  # at 16 kHz
    "frames": np.int32,  # of the encoder; 0 in audio shards
    "characters": np.int32,  # of the transcript
    "text_bytes": np.int32,  # of the transcript in UTF-8
}
METADATA = {"text": str, "seconds": int | float, "language": str, "speaker": str, "task": str, "meta": dict}

Json = dict[str, Any]
Count = TypeVar("Count", int, np.ndarray)


class Fault(Exception):
    """What is wrong with an utterance in its shard."""


class ShardError(UserError):
    """A shard that does not hold what its index says."""


@dataclass(frozen=True)
class ShardInfo:
    """One finished tar."""

    name: str
    bytes: int
    sha256: str
    utterances: int
    seconds: float
    columns_sha256: str
    source: str = ""  # path, relative to the index, of a tar indexed in place; its metadata is then in the .meta file

    @property
    def label(self) -> str:
        """The tar in messages; an address is shown without its secrets."""
        return without_secrets(self.source) or self.name


def shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def columns_path(shard: Path) -> Path:
    """`shard-000000.idx.json` beside `shard-000000.tar`."""
    return shard.with_suffix(".idx.json")


def meta_path(shard: Path) -> Path:
    """`shard-000000.meta`: the metadata of a tar indexed in place, canonical JSON end to end."""
    return shard.with_suffix(".meta")


def tar_path(root: Path, info: ShardInfo) -> Path:
    return root / (info.source or info.name)


@dataclass(frozen=True)
class ShardIndex:
    """N utterances in S shards. Arrays have one entry an utterance, in the order of shards and of members in them."""

    root: Path
    kind: str  # audio or features
    shards: tuple[ShardInfo, ...]
    fingerprint: dict[str, Any]  # what the content depends on: a hash of the input, or the encoder and its settings
    options: dict[str, Any]
    totals: dict[str, Any]
    key: list[str]
    shard: np.ndarray  # int32 [N]: position in `shards`; the others are COLUMNS
    offset: np.ndarray
    length: np.ndarray
    meta_offset: np.ndarray
    meta_length: np.ndarray
    crc32: np.ndarray
    samples: np.ndarray
    frames: np.ndarray
    characters: np.ndarray
    text_bytes: np.ndarray
    address: str = ""  # where the shards of a remote dataset lie; `root` then holds copies of the index alone

    def __len__(self) -> int:
        return len(self.key)

    @property
    def seconds(self) -> float:
        """Of all audio."""
        return float(self.samples.sum()) / SAMPLE_RATE

    @property
    def media(self) -> str:
        """Format of the recordings: "flac" as `audio.encode_flac` makes it, "opus", or "any"."""
        return self.options.get("media", "flac")

    def digest(self) -> str:
        """sha256 hex over the shards' own: the identity of the data, wherever it lies."""
        identities = [shard.columns_sha256 + shard.sha256 if shard.source else shard.sha256 for shard in self.shards]
        return hashlib.sha256(canonical_json([self.kind, identities])).hexdigest()

    def location(self, shard: int) -> str:
        """The path of the tar, or its address."""
        return self.places[shard][0]

    @cached_property
    def places(self) -> list[tuple[str, Path | None]]:
        """The location of each shard, and the same as a path if it is local; needed for each utterance."""
        places = []
        for name in (shard.source or shard.name for shard in self.shards):
            local = name if is_remote(name) else str(self.root / name)
            place = resolve_address(self.address, name) if self.address else local
            places.append((place, None if is_remote(place) else Path(place)))
        return places

    def home(self, shard: int) -> str:
        """The path or the address of the shard's own dataset directory."""
        name = self.shards[shard].name
        return self.address or (name.rpartition("/")[0] if is_remote(name) else str((self.root / name).parent))

    def error(self, i: int, problem: str) -> ShardError:
        """What is wrong with utterance `i` in its shard, as an error to raise."""
        info, home = self.shards[self.shard[i]], self.home(self.shard[i])
        name = info.label if info.source else Path(info.name).name
        return ShardError(f'{name}, utterance {self.key[i]}: {problem}; run "slam-asr prep check {home}"')

    def placed(self, shard: int) -> ShardInfo:
        """The shard with absolute paths, to be read from an index with any other root."""
        info, place = self.shards[shard], self.location(shard)
        tar = place if is_remote(place) else str(Path(place).resolve())
        if info.source:
            return replace(info, name=str((self.root / info.name).resolve()), source=tar)
        return replace(info, name=tar)


def write_index(root: Path, kind: str, shards: list[ShardInfo], fingerprint: Json, options: Json, totals: Json) -> None:
    """Declares the directory finished."""
    listed = [{name: value for name, value in asdict(shard).items() if name != "source" or value} for shard in shards]
    document: dict[str, Any] = {"format": FORMAT, "version": VERSION, "kind": kind, "shards": listed}
    document |= {"fingerprint": fingerprint, "options": options, "totals": totals}
    write_durably(root / INDEX_NAME, canonical_json(document, indent=1) + b"\n")


def padded(count: Count, to: int = BLOCK) -> Count:
    """Bytes (a number or an array) rounded up to whole blocks."""
    return -(-count // to) * to


def parse_columns(raw: dict[str, Any]) -> dict[str, Any] | None:
    """Lists to arrays of COLUMNS' types; None if a column is missing, of another length or of another type."""
    keys = raw.get("key")
    if set(raw) != {"key", *COLUMNS} or not isinstance(keys, list):
        return None
    if not all(isinstance(key, str) and KEY.fullmatch(key) for key in keys):
        return None
    columns: dict[str, Any] = {"key": keys}
    for name, kind in COLUMNS.items():
        values, limits = raw[name], np.iinfo(kind)
        if not isinstance(values, list) or len(values) != len(keys) or set(map(type, values)) - {int}:
            return None
        if values and not limits.min <= min(values) <= max(values) <= limits.max:
            return None
        columns[name] = np.array(values, dtype=kind)
    return columns


def in_bounds(columns: dict[str, Any], size: int, meta_size: int | None = None) -> bool:
    """Whether every member lies inside the tar of `size` bytes, and is of a length that an utterance can have. Media
    lie before their own metadata, with one header between them. For a tar indexed in place, metadata lie end to end in
    a file of `meta_size` bytes."""
    offset, length, meta_offset, meta_length = (columns[n] for n in ("offset", "length", "meta_offset", "meta_length"))
    if any((columns[name] < 0).any() for name in COLUMNS) or (offset > size).any() or (length > size - offset).any():
        return False
    samples, frames = columns["samples"], columns["frames"]
    if (samples > MAX_SECONDS * SAMPLE_RATE).any() or (frames > samples).any():
        return False
    aligned = (offset >= BLOCK) & (offset % BLOCK == 0) & (length > 0) & (meta_length > 0)
    if meta_size is None:
        meta_size = size
        aligned &= meta_offset == offset + padded(length) + BLOCK
    return bool((aligned & (meta_offset <= meta_size) & (meta_length <= meta_size - meta_offset)).all())


def parse_metadata(key: str, data: bytes) -> dict[str, Any]:
    """`<key>.json`: at least METADATA, each of its type. Fault, in one line, for anything else."""
    try:
        metadata = strict_json(data)
        if not isinstance(metadata, dict) or not METADATA.keys() <= metadata.keys():
            problem = f"it has not the fields {', '.join(sorted(METADATA))}"
        elif wrong := [name for name, kind in METADATA.items() if not isinstance(metadata[name], kind)]:
            problem = f"{wrong[0]} is {repr(metadata[wrong[0]])[:40]}"
        elif not 0 <= metadata["seconds"] <= MAX_SECONDS:
            problem = f"seconds is {str(metadata['seconds'])[:20]}, an utterance has at most {MAX_SECONDS:,}"
        else:
            return metadata
    except (ValueError, RecursionError) as error:
        problem = f"it is no JSON: {' '.join(str(error).split())}"
    raise Fault(f"{key}.json is not what it must be: {problem}")
