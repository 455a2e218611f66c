"""The files that an index consists of, each read and checked by itself; index.py makes one index of them."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.columns import in_bounds, parse_columns
from data_prep.durable import strict_json
from model.errors import UserError

FORMAT, VERSION = "slam-asr-shards", 1
INDEX_NAME = "index.json"
UNFINISHED_NAME = ".unfinished.json"  # what is being made here; gone when index.json is there
SHARD_NAME = re.compile(r"shard-[0-9]{6}\.tar")
KINDS = ("audio", "features")
MAX_JSON_BYTES = 1 << 30
ANEW = "run the command that built it again with --overwrite: finished shards are kept"


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


def shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def columns_path(shard: Path) -> Path:
    """`shard-000000.idx.json` beside `shard-000000.tar`."""
    return shard.with_suffix(".idx.json")


def meta_path(shard: Path) -> Path:
    """`shard-000000.meta`: the metadata of a tar of others, canonical JSON end to end."""
    return shard.with_suffix(".meta")


def read_document(path: Path) -> dict[str, Any]:
    """A JSON object of ours; UserError if it is none."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has more than {MAX_JSON_BYTES:,} bytes")
        document = strict_json(path.read_bytes())
        if not isinstance(document, dict):
            raise ValueError("it is no JSON object")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; see to that, and run it again") from None
    except (ValueError, RecursionError) as error:
        hint = ANEW if path.name in (INDEX_NAME, UNFINISHED_NAME) else _check_hint(path.parent)
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}; {hint}") from None
    return document


def document_of(root: Path) -> dict[str, Any]:
    """index.json. This and all below raise a UserError that names the directory and what is wrong."""
    if not root.is_dir():
        raise UserError(f"{root} is no directory; give one that `slam-asr prep build` or `prep features` made")
    if not (root / INDEX_NAME).exists():
        if (root / UNFINISHED_NAME).exists() or any(map(SHARD_NAME.fullmatch, os.listdir(root))):
            raise UserError(f"{root} has no {INDEX_NAME}: it is not finished; run the command that builds it again")
        raise UserError(f"{root} is no shard directory; `slam-asr prep build` or `prep index` makes one")
    document = read_document(root / INDEX_NAME)
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        found = f"{document.get('format')!r} version {document.get('version')!r}"
        raise UserError(
            f"{root / INDEX_NAME} is {found}, this program reads {FORMAT!r} version {VERSION}; build it again"
        )
    kinds = {"shards": list, "fingerprint": dict, "options": dict, "totals": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(document.get(name), kind)]
    if wrong or document.get("kind") not in KINDS:
        raise stale(root, f"field {(wrong or ['kind'])[0]!r} of {INDEX_NAME} is not what it must be")
    return document


def shard_info(root: Path, entry: Any) -> ShardInfo:
    """One of its shards."""
    kinds = {"name": str, "bytes": int, "sha256": str, "utterances": int, "seconds": float | int, "columns_sha256": str}
    kinds |= {"source": str}
    entry = {"source": "", **entry} if isinstance(entry, dict) else {}
    if set(entry) != set(kinds) or not all(isinstance(entry[k], kinds[k]) for k in kinds) or "\0" in entry["source"]:
        raise stale(root, f"a shard of {INDEX_NAME} is not described as it must be")
    info = ShardInfo(**entry)
    if not SHARD_NAME.fullmatch(info.name):
        raise stale(root, f"{INDEX_NAME} names a shard {info.name[:40]!r}")
    return info


def require_size(root: Path, info: ShardInfo) -> None:
    """The tar is there, with as many bytes."""
    name = info.source or info.name
    try:
        found = tar_path(root, info).stat().st_size
    except OSError:
        raise stale(root, f"{name} is missing, the index lists it") from None
    if found != info.bytes:
        raise stale(root, f"{name} has {found:,} bytes, its index says {info.bytes:,}")


def columns_of(root: Path, info: ShardInfo) -> dict[str, Any]:
    """Arrays of COLUMNS' types, and the keys; every member inside the tar."""
    path = columns_path(root / info.name)
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        raise stale(root, f"{path.name} is missing") from None
    if found != info.columns_sha256:
        raise stale(root, f"{path.name} is not the file that {INDEX_NAME} describes")
    raw = read_document(path).get("columns")
    columns = parse_columns(raw) if isinstance(raw, dict) else None
    meta_bytes = _size(meta_path(root / info.name)) if info.source else None
    if columns is None or len(columns["key"]) != info.utterances or not in_bounds(columns, info.bytes, meta_bytes):
        raise stale(
            root, f"{path.name} does not describe a tar of {info.bytes:,} bytes and {info.utterances:,} utterances"
        )
    return columns


def tar_path(root: Path, info: ShardInfo) -> Path:
    return root / (info.source or info.name)


def _size(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def stale(root: Path, what: str) -> UserError:
    return UserError(f"{root}: {what}; {_check_hint(root)}")


def _check_hint(root: Path) -> str:
    return f'run "slam-asr prep check {root}"'
