"""Opening a dataset directory, local or at an address, and the tars that its index lists.

Each file of an index is checked by itself, then all are made one ShardIndex. The index of a remote dataset is copied
into the cache; index.json is always read anew. UserErrors name the directory or file and what is wrong."""

import hashlib
import os
import re
import shutil
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from data_prep.addresses import is_remote, resolve_address, without_secrets
from data_prep.durable import read_regular, replacing, strict_json, write_durably
from data_prep.paths import no_such
from data_prep.remote.objects import read_bytes, require_bare
from data_prep.retries import Missing
from data_prep.shards import index as names
from data_prep.shards.cache import Mismatch, cache_folder, local_copy, write_verified
from data_prep.shards.index import COLUMNS, INDEX_NAME, ShardIndex, ShardInfo, columns_path, meta_path, tar_path
from model.errors import UserError, counted
from model.files import file_sha256
from model.sample_rate import SAMPLE_RATE

UNFINISHED_NAME = ".unfinished.json"  # what is being made here; gone when index.json is there
MEDIA = ("flac", "opus", "any")
MAX_JSON_BYTES = 1 << 30
SECONDS_SLACK = 0.001  # a shard's seconds are rounded to four places
DOCUMENT_FIELDS = {"shards": list, "fingerprint": dict, "options": dict, "totals": dict}
SHARD_FIELDS = {"name": str, "bytes": int, "sha256": str, "utterances": int, "seconds": float | int}
SHARD_FIELDS |= {"columns_sha256": str, "source": str}
INDEX_FOLDER = re.compile(r"[0-9a-f]{64}(\.[0-9]+-[0-9]+\.tmp)?")
INDEX_FOLDERS = 64  # indexes kept, the most recently used
PARALLEL_FILES = 8


def read_index(root: str | os.PathLike[str]) -> ShardIndex:
    """The index of a finished directory, local or at an address. UserError for whatever does not agree: sizes of
    shards, hashes of columns; it names the address where there is no dataset, or an unfinished
    one."""
    if not is_remote(root):
        return read_files(Path(root))
    address = os.fspath(root).rstrip("/")
    try:
        document = read_bytes(f"{require_bare(address)}/{INDEX_NAME}")
    except Missing:
        problem = f"{address} has no {INDEX_NAME}: there is no dataset, or an unfinished one"
        raise UserError(f"{problem}; run the command that builds it again") from None
    cache = cache_folder()
    # The hash is of both, so that no dataset meets the files of another.
    folder = cache.path / "indexes" / hashlib.sha256(address.encode() + b"\0" + document).hexdigest()
    try:
        cache.make()
        if not (folder / INDEX_NAME).exists():
            _copy_index(address, document, folder)
            _forget_old_indexes(folder.parent)
        os.utime(folder)
        return read_files(folder, address)
    except UserError as error:
        local = re.escape(str(folder)) + r"(\.[0-9]+-[0-9]+\.tmp)?"
        raise UserError(re.sub(local, lambda _: address, str(error))) from None
    except OSError as error:
        raise cache.unusable(error) from None


def shard_path(index: ShardIndex, shard: int) -> Path:
    """The tar on this machine; one that lies at an address is copied into the cache first."""
    place, path = index.places[shard]
    return local_copy(place, index.shards[shard].bytes, index.shards[shard].sha256) if path is None else path


def read_files(root: Path, address: str = "") -> ShardIndex:
    """The index whose files lie in `root`, checked against the sizes of its shards and the hashes of its columns. Of an
    `address` they are copies, and shards are checked when they are copied. The bytes inside the tars are checked when
    they are read."""
    document = document_of(root)
    media = document["options"].get("media", "flac")
    if media not in MEDIA:  # exports name files by it
        raise _stale(root, f"media {str(media)[:40]!r} is none of {', '.join(MEDIA)}")
    infos = tuple(shard_info(root, entry) for entry in document["shards"])
    for info in () if address else infos:
        size = _size(tar_path(root, info))
        if size is None:
            raise _stale(root, f"{info.label} is missing, the index lists it")
        if size != info.bytes:
            raise _stale(root, f"{info.label} has {size:,} bytes, its index says {info.bytes:,}")
    parts = [_columns_of(root, info) for info in infos]
    keys = [key for part in parts for key in part["key"]]
    if len(set(keys)) != len(keys):
        raise _stale(root, "its index holds a key twice")
    columns: dict[str, Any] = {
        name: np.concatenate([np.zeros(0, kind), *(part[name] for part in parts)]) for name, kind in COLUMNS.items()
    }
    columns |= {name: document[name] for name in ("kind", "fingerprint", "options", "totals")}
    shard = np.repeat(np.arange(len(infos), dtype=np.int32), [info.utterances for info in infos])
    return ShardIndex(root=root, shards=infos, key=keys, shard=shard, address=address, **columns)


def read_listing(root: Path) -> list[ShardInfo]:
    """The shards that index.json names, with nothing checked but its own form."""
    return [shard_info(root, entry) for entry in document_of(root)["shards"]]


def finished_shard(path: Path, recipe: str, source: str = "") -> ShardInfo | None:
    """A shard that its own columns show to be complete and made by this very `recipe`; None if there is none. `source`:
    the path of a tar indexed in place, which its columns do not name."""
    try:
        document = read_document(columns_path(path))
        shard = ShardInfo(**document["shard"], columns_sha256="", source=source)
        if document["recipe"] != recipe or tar_path(path.parent, shard).stat().st_size != shard.bytes:
            return None
        return replace(shard, columns_sha256=file_sha256(columns_path(path)))
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None


def read_document(path: Path, sha256: str = "") -> dict[str, Any]:
    """A JSON object; with `sha256`, only of the file with this hash. UserError for anything else."""
    try:
        data = read_regular(path, MAX_JSON_BYTES)
        if sha256 and hashlib.sha256(data).hexdigest() != sha256:
            raise _stale(path.parent, f"{path.name} is not the file that {INDEX_NAME} describes")
        document = strict_json(data)
        if isinstance(document, dict):
            return document
        reason = "it is no JSON object"
    except OSError as error:
        raise _unreadable(path, error) from None
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
    advice = f'run "slam-asr prep check {path.parent}"'
    if path.name in (INDEX_NAME, UNFINISHED_NAME):
        advice = "run the command that built it again with --overwrite: finished shards are kept"
    raise UserError(f"cannot read {path}: {reason}; {advice}")


def document_of(root: Path) -> dict[str, Any]:
    """index.json."""
    if not root.exists():
        raise UserError(no_such(root, "give a directory that `slam-asr prep build` or `prep features` made"))
    if not root.is_dir():
        raise UserError(f"{root} is no directory; give one that `slam-asr prep build` or `prep features` made")
    if not (root / INDEX_NAME).exists():
        if (root / UNFINISHED_NAME).exists() or any(map(names.SHARD_NAME.fullmatch, os.listdir(root))):
            raise UserError(f"{root} has no {INDEX_NAME}: it is not finished; run the command that builds it again")
        raise UserError(f"{root} is no shard directory; `slam-asr prep build` or `prep index` makes one")
    document = read_document(root / INDEX_NAME)
    stated, expected = (document.get("format"), document.get("version")), (names.FORMAT, names.VERSION)
    if stated != expected:
        read = "{!r} version {!r}, this program reads {!r} version {!r}".format(*stated, *expected)
        raise UserError(f"{root / INDEX_NAME} is {read}; build it again")
    wrong = [name for name, kind in DOCUMENT_FIELDS.items() if not isinstance(document.get(name), kind)]
    if wrong or document.get("kind") not in ("audio", "features"):
        raise _stale(root, f"field {(wrong or ['kind'])[0]!r} of {INDEX_NAME} is not what it must be")
    for name, value in document["totals"].items():  # text: the hash of the encoder's files; bad: counts by reason
        counts = value.values() if name in ("bad", "dropped") and isinstance(value, dict) else ()
        is_total = isinstance(value, dict if name in ("bad", "dropped") else int | float | str | dict)
        if not is_total or any(type(count) is not int for count in counts):
            raise _stale(root, f"{name[:40]!r} of the totals in {INDEX_NAME} is no number")
    return document


def shard_info(root: Path, entry: Any) -> ShardInfo:
    """One of the shards that index.json lists."""
    entry = {"source": "", **entry} if isinstance(entry, dict) else {}
    right = entry.keys() == SHARD_FIELDS.keys() and all(isinstance(entry[k], SHARD_FIELDS[k]) for k in entry)
    if not right or "\0" in entry["source"]:
        raise _stale(root, f"a shard of {INDEX_NAME} is not described as it must be")
    if not names.SHARD_NAME.fullmatch(entry["name"]):
        raise _stale(root, f"{INDEX_NAME} names a shard {entry['name'][:40]!r}")
    return ShardInfo(**entry)


def require_plain(path: Path) -> Path:
    """The file, which will be published: a link in somebody's dataset may lead to anything on this machine."""
    try:
        plain = stat.S_ISREG(path.lstat().st_mode)
    except OSError as error:
        raise _unreadable(path, error) from None
    if not plain:
        raise UserError(f"{path} is no plain file, it may be a link; put the file itself there")
    return path


def _columns_of(root: Path, info: ShardInfo) -> dict[str, Any]:
    """Arrays of COLUMNS' types, and the keys; every member inside the tar."""
    path = columns_path(root / info.name)
    if not path.exists():
        raise _stale(root, f"{path.name} is missing")
    raw = read_document(path, info.columns_sha256 or "none").get("columns")
    columns = names.parse_columns(raw) if isinstance(raw, dict) else None
    meta_bytes = (_size(meta_path(root / info.name)) or 0) if info.source else None
    fits = columns is not None and names.in_bounds(columns, info.bytes, meta_bytes)
    if columns is None or not fits or len(columns["key"]) != info.utterances:
        described = f"{info.bytes:,} bytes and {counted(info.utterances, 'utterance')}"
        raise _stale(root, f"{path.name} does not describe a tar of {described}")
    seconds = int(columns["samples"].sum()) / SAMPLE_RATE
    if not seconds - SECONDS_SLACK <= info.seconds <= seconds + SECONDS_SLACK:
        raise _stale(root, f"{path.name} holds {seconds:.4f} s, {INDEX_NAME} says {str(info.seconds)[:20]} s")
    return columns


def _size(path: Path) -> int | None:
    """Bytes of a file, None where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot read {path}: {error.strerror}; see to that, and run it again")


def _stale(root: Path, problem: str) -> UserError:
    return UserError(f'{root}: {problem}; run "slam-asr prep check {root}"')


def _copy_index(address: str, document: bytes, folder: Path) -> None:
    """index.json and the files that it needs, as `folder`, which appears whole."""
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}-{time.monotonic_ns()}.tmp")
    temporary.mkdir(mode=0o700)
    try:
        write_durably(temporary / INDEX_NAME, document)
        shards = [shard_info(temporary, entry) for entry in document_of(temporary)["shards"]]
        with ThreadPoolExecutor(PARALLEL_FILES) as pool:
            list(pool.map(lambda shard: _copy_columns(address, shard, temporary), shards))
        with suppress(OSError):  # another process was faster
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _copy_columns(address: str, shard: ShardInfo, folder: Path) -> None:
    """The shard's columns and, if its tar is indexed in place, its metadata, each verified by the file before it."""
    columns = columns_path(folder / shard.name)
    _copy_file(address, columns, shard.columns_sha256, INDEX_NAME)
    if shard.source:
        if urlsplit(resolve_address(address, shard.source))[:2] != urlsplit(address)[:2]:
            place = without_secrets(shard.source)[:100]
            raise UserError(f"{address}: its index names a tar that lies elsewhere, {place!r}; index it beside the tar")
        meta_sha256 = str(read_document(columns).get("meta_sha256"))
        _copy_file(address, meta_path(folder / shard.name), meta_sha256, columns.name)


def _copy_file(address: str, path: Path, sha256: str, described_by: str) -> None:
    try:
        with replacing(path) as file:
            write_verified(file, [read_bytes(f"{address}/{path.name}")], sha256)
    except Missing:
        raise UserError(f"{address}: {path.name} is missing, its index needs it; publish it again") from None
    except Mismatch:
        problem = f"{path.name} is not the file that {described_by} describes"
        raise UserError(f"{address}: {problem}; make and publish it again") from None


def _forget_old_indexes(parent: Path) -> None:
    with suppress(OSError):  # another process may remove them at the same time
        ours = (folder for folder in parent.iterdir() if INDEX_FOLDER.fullmatch(folder.name))
        for folder in sorted(ours, key=lambda folder: folder.stat().st_mtime, reverse=True)[INDEX_FOLDERS:]:
            shutil.rmtree(folder, ignore_errors=True)
