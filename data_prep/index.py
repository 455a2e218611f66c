"""`ShardIndex`, the contract between shards and everything that reads them.

A dataset directory holds `shard-000000.tar`, its columns `shard-000000.idx.json` ... and `index.json`, which lists the
shards with their sizes and hashes and is written last: a directory without it is unfinished.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.columns import COLUMNS, in_bounds, parse_columns
from data_prep.durable import canonical_json, strict_json, write_durably
from model.errors import UserError

FORMAT, VERSION = "slam-asr-shards", 1
INDEX_NAME = "index.json"
SHARD_NAME = re.compile(r"shard-[0-9]{6}\.tar")
KINDS = ("audio", "features")
MAX_JSON_BYTES = 1 << 30


@dataclass(frozen=True)
class ShardInfo:
    """One finished tar."""

    name: str
    bytes: int
    sha256: str
    utterances: int
    seconds: float
    columns_sha256: str
    source: str = ""
    """Where the tar lies, if it is not ours: a path, from the index's folder on. The metadata is then beside the
    index, in `shard-000000.meta`."""


@dataclass(frozen=True)
class ShardIndex:
    """N utterances in S shards. Arrays have one entry an utterance, in the order of shards and of members in them."""

    root: Path
    kind: str
    """One of KINDS."""
    shards: tuple[ShardInfo, ...]
    fingerprint: dict[str, Any]
    """What the content depends on: of audio, a hash of the input; of features, the encoder and its settings."""
    options: dict[str, Any]
    totals: dict[str, Any]
    key: list[str]
    shard: np.ndarray
    """int32 [N]: position in `shards`."""
    offset: np.ndarray
    length: np.ndarray
    meta_offset: np.ndarray
    meta_length: np.ndarray
    crc32: np.ndarray
    samples: np.ndarray
    frames: np.ndarray
    characters: np.ndarray
    text_bytes: np.ndarray
    address: str = ""
    """Where the shards lie, if not in `root`: `s3://bucket/folder`; `root` then holds copies of the index alone."""

    def __len__(self) -> int:
        return len(self.key)

    @property
    def seconds(self) -> float:
        """Of all audio."""
        return float(self.samples.sum()) / 16000

    @property
    def media(self) -> str:
        """What an utterance of an audio index is: "flac" as `audio.encode_flac` makes it, or of any other format."""
        return self.options.get("media", "flac")

    @cached_property
    def _digest(self) -> str:
        identities = [shard.columns_sha256 + shard.sha256 if shard.source else shard.sha256 for shard in self.shards]
        return hashlib.sha256(canonical_json([self.kind, identities])).hexdigest()

    def digest(self) -> str:
        """sha256 hex over the shards' own: the identity of the data, whatever its place."""
        return self._digest

    def path(self, shard: int) -> Path:
        """The tar on this machine; one that lies at an address is copied into the cache first."""
        info = self.shards[shard]
        if self.address:
            from data_prep.cache import local_copy

            return local_copy(f"{self.address}/{info.name}", info.bytes, info.sha256)
        return _tar(self.root, info)

    def meta_path(self, shard: int) -> Path:
        """The file that `meta_offset` counts in."""
        info = self.shards[shard]
        return meta_path(self.root / info.name) if info.source else self.path(shard)

    def home(self, shard: int) -> Path:
        """The folder of the shard's own dataset directory."""
        return self.path(shard).parent if self.address else (self.root / self.shards[shard].name).parent

    def placed(self, shard: int) -> ShardInfo:
        """The shard by its whole paths, to be read from an index with any other root."""
        info = self.shards[shard]
        tar = str(self.path(shard).resolve())
        if info.source:
            return replace(info, name=str((self.root / info.name).resolve()), source=tar)
        return replace(info, name=tar)


def shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def columns_path(shard: Path) -> Path:
    """`shard-000000.idx.json` beside `shard-000000.tar`."""
    return shard.with_suffix(".idx.json")


def meta_path(shard: Path) -> Path:
    """`shard-000000.meta`: the metadata of a tar of others, canonical JSON end to end."""
    return shard.with_suffix(".meta")


def write_index(
    root: Path,
    kind: str,
    shards: list[ShardInfo],
    fingerprint: dict[str, Any],
    options: dict[str, Any],
    totals: dict[str, Any],
) -> None:
    """Declares the directory finished."""
    listed = [{name: value for name, value in asdict(shard).items() if name != "source" or value} for shard in shards]
    document: dict[str, Any] = {"format": FORMAT, "version": VERSION, "kind": kind, "shards": listed}
    document |= {"fingerprint": fingerprint, "options": options, "totals": totals}
    write_durably(root / INDEX_NAME, canonical_json(document, indent=1) + b"\n")


def read_index(root: str | os.PathLike[str]) -> ShardIndex:
    """The index of a finished directory, checked against the sizes of its shards and the hashes of its columns.

    UserError for whatever does not agree; the bytes inside the tars are checked when they are read.
    """
    root = Path(root)
    document = _document(root)
    infos = tuple(_shard_info(root, entry) for entry in document["shards"])
    for info in infos:
        _require_size(root, info)
    parts = [_columns(root, info) for info in infos]
    keys = [key for part in parts for key in part["key"]]
    if len(set(keys)) != len(keys):
        raise _stale(root, "its index holds a key twice")
    columns: dict[str, Any] = {
        name: np.concatenate([np.zeros(0, kind), *(part[name] for part in parts)]) for name, kind in COLUMNS.items()
    }
    columns |= {name: document[name] for name in ("kind", "fingerprint", "options", "totals")}
    shard = np.repeat(np.arange(len(infos), dtype=np.int32), [info.utterances for info in infos])
    return ShardIndex(root=root, shards=infos, key=keys, shard=shard, **columns)


def read_listing(root: Path) -> list[ShardInfo]:
    """The shards that index.json names, with nothing checked but its own form."""
    return [_shard_info(root, entry) for entry in _document(root)["shards"]]


def finished_shard(path: Path, recipe: str) -> ShardInfo | None:
    """A shard that its own columns show to be complete and made by this very `recipe`; None if there is none."""
    try:
        document = read_document(columns_path(path))
        shard = ShardInfo(**document["shard"], columns_sha256="")
        if document["recipe"] != recipe or _tar(path.parent, shard).stat().st_size != shard.bytes:
            return None
        found = hashlib.sha256(columns_path(path).read_bytes()).hexdigest()
        return replace(shard, columns_sha256=found)
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None


def read_document(path: Path) -> dict[str, Any]:
    """A JSON object of ours; UserError if it is none."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has more than {MAX_JSON_BYTES:,} bytes")
        document = strict_json(path.read_bytes())
        if not isinstance(document, dict):
            raise ValueError("it is no JSON object")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {_check_hint(path.parent)}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}; {_check_hint(path.parent)}") from None
    return document


def _document(root: Path) -> dict[str, Any]:
    if not root.is_dir():
        raise UserError(f"{root} is no directory; give one that `slam-asr prep build` or `prep features` made")
    if not (root / INDEX_NAME).exists():
        raise UserError(f"{root} has no {INDEX_NAME}: it is not finished; run the command that builds it again")
    document = read_document(root / INDEX_NAME)
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        found = f"{document.get('format')!r} version {document.get('version')!r}"
        raise UserError(
            f"{root / INDEX_NAME} is {found}, this program reads {FORMAT!r} version {VERSION}; build it again"
        )
    kinds = {"shards": list, "fingerprint": dict, "options": dict, "totals": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(document.get(name), kind)]
    if wrong or document.get("kind") not in KINDS:
        raise _stale(root, f"field {(wrong or ['kind'])[0]!r} of {INDEX_NAME} is not what it must be")
    return document


def _shard_info(root: Path, entry: Any) -> ShardInfo:
    kinds = {"name": str, "bytes": int, "sha256": str, "utterances": int, "seconds": float | int, "columns_sha256": str}
    kinds |= {"source": str}
    entry = {"source": "", **entry} if isinstance(entry, dict) else {}
    if set(entry) != set(kinds) or not all(isinstance(entry[k], kinds[k]) for k in kinds) or "\0" in entry["source"]:
        raise _stale(root, f"a shard of {INDEX_NAME} is not described as it must be")
    info = ShardInfo(**entry)
    if not SHARD_NAME.fullmatch(info.name):
        raise _stale(root, f"{INDEX_NAME} names a shard {info.name[:40]!r}")
    return info


def _require_size(root: Path, info: ShardInfo) -> None:
    name = info.source or info.name
    try:
        found = _tar(root, info).stat().st_size
    except OSError:
        raise _stale(root, f"{name} is missing, the index lists it") from None
    if found != info.bytes:
        raise _stale(root, f"{name} has {found:,} bytes, its index says {info.bytes:,}")


def _columns(root: Path, info: ShardInfo) -> dict[str, Any]:
    path = columns_path(root / info.name)
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        raise _stale(root, f"{path.name} is missing") from None
    if found != info.columns_sha256:
        raise _stale(root, f"{path.name} is not the file that {INDEX_NAME} describes")
    raw = read_document(path).get("columns")
    columns = parse_columns(raw) if isinstance(raw, dict) else None
    meta_bytes = _size(meta_path(root / info.name)) if info.source else None
    if columns is None or len(columns["key"]) != info.utterances or not in_bounds(columns, info.bytes, meta_bytes):
        raise _stale(
            root, f"{path.name} does not describe a tar of {info.bytes:,} bytes and {info.utterances:,} utterances"
        )
    return columns


def _tar(root: Path, info: ShardInfo) -> Path:
    return root / (info.source or info.name)


def _size(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _stale(root: Path, what: str) -> UserError:
    return UserError(f"{root}: {what}; {_check_hint(root)}")


def _check_hint(root: Path) -> str:
    return f'run "slam-asr prep check {root}"'
