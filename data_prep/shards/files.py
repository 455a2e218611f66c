"""The files that an index consists of, each read and checked by itself; index.py makes one index of them."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.addresses import without_secrets
from data_prep.durable import read_regular, strict_json
from data_prep.figures import counted
from data_prep.paths import no_such
from data_prep.shards.columns import in_bounds, parse_columns
from model.errors import UserError
from model.sample_rate import SAMPLE_RATE

FORMAT, VERSION = "slam-asr-shards", 1
INDEX_NAME = "index.json"
UNFINISHED_NAME = ".unfinished.json"  # what is being made here; gone when index.json is there
SHARD_NAME = re.compile(r"shard-[0-9]{6}\.tar")
KINDS = ("audio", "features")
MAX_JSON_BYTES = 1 << 30
SECONDS_SLACK = 0.001  # of a shard's own, which are rounded to four places
ANEW = "run the command that built it again with --overwrite: finished shards are kept"


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
    source: str = ""
    """Where the tar lies, if it is not ours: a path, from the index's folder on. The metadata is then beside the
    index, in `shard-000000.meta`."""

    @property
    def label(self) -> str:
        """What a message calls the tar: its place may be an address with secrets in it."""
        return without_secrets(self.source) or self.name


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
    return _parsed(path, _data_of(path))


def _data_of(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_JSON_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; see to that, and run it again") from None
    except ValueError as error:
        raise UserError(f"cannot read {path}: {error}; {_hint(path)}") from None


def _parsed(path: Path, data: bytes) -> dict[str, Any]:
    try:
        document = strict_json(data)
        if not isinstance(document, dict):
            raise ValueError("it is no JSON object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}; {_hint(path)}") from None
    return document


def _hint(path: Path) -> str:
    return ANEW if path.name in (INDEX_NAME, UNFINISHED_NAME) else _check_hint(path.parent)


def document_of(root: Path) -> dict[str, Any]:
    """index.json. This and all below raise a UserError that names the directory and what is wrong."""
    if not root.exists():
        raise UserError(no_such(root, "give a directory that `slam-asr prep build` or `prep features` made"))
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
    unlike = next((name for name, value in document["totals"].items() if not _is_total(name, value)), None)
    if unlike is not None:
        raise stale(root, f"{unlike[:40]!r} of the totals in {INDEX_NAME} is no number")
    return document


def _is_total(name: str, value: Any) -> bool:
    """A number, a text (the hash of the encoder's files), or such by name; of what stayed out, a count by reason."""
    if name in ("bad", "dropped"):
        return isinstance(value, dict) and all(type(count) is int for count in value.values())
    return isinstance(value, int | float | str | dict)


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
    name = info.label
    try:
        found = tar_path(root, info).stat().st_size
    except OSError:
        raise stale(root, f"{name} is missing, the index lists it") from None
    if found != info.bytes:
        raise stale(root, f"{name} has {found:,} bytes, its index says {info.bytes:,}")


def columns_of(root: Path, info: ShardInfo) -> dict[str, Any]:
    """Arrays of COLUMNS' types, and the keys; every member inside the tar."""
    path = columns_path(root / info.name)
    if not path.exists():
        raise stale(root, f"{path.name} is missing")
    data = _data_of(path)
    if hashlib.sha256(data).hexdigest() != info.columns_sha256:
        raise stale(root, f"{path.name} is not the file that {INDEX_NAME} describes")
    raw = _parsed(path, data).get("columns")
    columns = parse_columns(raw) if isinstance(raw, dict) else None
    meta_bytes = _size(meta_path(root / info.name)) if info.source else None
    if columns is None or len(columns["key"]) != info.utterances or not in_bounds(columns, info.bytes, meta_bytes):
        raise stale(
            root,
            f"{path.name} does not describe a tar of {info.bytes:,} bytes and {counted(info.utterances, 'utterance')}",
        )
    seconds = int(columns["samples"].sum()) / SAMPLE_RATE
    if not seconds - SECONDS_SLACK <= info.seconds <= seconds + SECONDS_SLACK:
        raise stale(root, f"{path.name} holds {seconds:.4f} s, {INDEX_NAME} says {str(info.seconds)[:20]} s")
    return columns


def require_plain(path: Path) -> Path:
    """The file, which is given to others: a link in somebody's dataset may lead to anything on this machine."""
    try:
        plain = stat.S_ISREG(path.lstat().st_mode)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; see to that, and run it again") from None
    if not plain:
        raise UserError(f"{path} is no plain file, it may be a link; put the file itself there")
    return path


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
