"""A dataset that is made at an address: shards go up as they are finished and leave the disk, index.json goes last.

The work is done in a staging folder of this machine (`staged`), which notes in the environment where what is made
there goes; `publication_of` finds it, also in worker processes, so that builders need only to say what they have
finished. No file says it: one could come with somebody's data. What is there at the address decides, not what is here:
so a killed build goes on from any machine, and a second builder of the same data takes over from the first, which
stops. An address without index.json is unfinished, as is a directory.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.durable import canonical_json, strict_json, write_durably
from data_prep.index import (
    INDEX_NAME,
    SHARD_NAME,
    ShardInfo,
    columns_path,
    finished_shard,
    read_document,
    read_index,
    read_listing,
)
from data_prep.index_files import UNFINISHED_NAME
from data_prep.remote.cache_folder import cache_folder
from data_prep.remote.directory import NOTES, upload_notes, upload_shard
from data_prep.remote.objects import (
    listing,
    read_bytes,
    remove,
    require_writable,
    size,
    sizes,
    upload,
    write_bytes,
)
from data_prep.remote.retries import Missing
from data_prep.sources import is_remote
from model.errors import UserError

STAGED = "SLAM_ASR_STAGED"  # environment: JSON of each staging folder's whole path and its address
BUILDER_NAME = ".builder.json"  # beside what is built: who builds it, as UNFINISHED_NAME says it at the address


@dataclass(frozen=True)
class Publication:
    """A staging folder and the address that it stands for."""

    folder: Path
    address: str

    def look_around(self, overwrite: bool) -> None:
        """Makes the folder say of finished and unfinished work what the address says."""
        names = listing(self.address)
        for name in (INDEX_NAME, UNFINISHED_NAME):
            (self.folder / name).unlink(missing_ok=True)
            if name in names:
                write_durably(self.folder / name, read_bytes(f"{self.address}/{name}"))
        begun = UNFINISHED_NAME in names
        tars = [name for name in names if SHARD_NAME.fullmatch(name)]
        if tars and not begun and INDEX_NAME not in names:
            if not all(columns_path(Path(name)).name in names for name in tars):
                raise UserError(f"{self.address} holds shards without an index, not made here; give another address")
            if not overwrite:
                gone = f"{self.address} holds shards whose {INDEX_NAME} is gone"
                raise UserError(f"{gone}; give another address, or --overwrite")
        for path in () if begun else self.folder.glob("shard-*.tar"):
            path.unlink()

    def is_whole(self) -> bool:
        """Whether the finished dataset at the address has all its files, as large as they must be."""
        try:
            index = read_index(self.address)
        except UserError:
            return False
        found = sizes([index.location(shard) for shard in range(len(index.shards))])
        return found == [info.bytes for info in index.shards]

    def begin(self, wanted: dict[str, Any]) -> None:
        """Declares the address unfinished, and this process its builder; says so if another one was."""
        before = self._builder()
        builder = {"host": socket.gethostname(), "process": os.getpid(), "token": uuid.uuid4().hex}
        write_durably(self.folder / BUILDER_NAME, canonical_json(builder))
        write_bytes(f"{self.address}/{UNFINISHED_NAME}", canonical_json({**wanted, "builder": builder}))
        remove(f"{self.address}/{INDEX_NAME}")
        if before:
            print(
                f"note: {self.address} was begun by {_named(before)}; this build goes on with it, that one would stop",
                file=sys.stderr,
            )

    def finished(self, path: Path, recipe: str) -> ShardInfo | None:
        """The shard as it is at the address, if this very `recipe` made it; its columns are then here too."""
        columns = columns_path(path)
        try:
            data = read_bytes(f"{self.address}/{columns.name}")
        except Missing:
            return None
        write_durably(columns, data)
        try:
            document = read_document(columns)
            shard = ShardInfo(**document["shard"], columns_sha256=hashlib.sha256(data).hexdigest())
            if document["recipe"] == recipe and size(f"{self.address}/{path.name}") == shard.bytes:
                return shard
        except (UserError, KeyError, TypeError):
            pass
        return None

    def publish(self, path: Path) -> None:
        """A finished shard goes up and its tar leaves the disk. UserError if another builder took over."""
        self._require_own()
        upload_shard(path, self.address)
        path.unlink()

    def publish_notes(self) -> None:
        """The lists of what stayed out."""
        upload_notes(self.folder, self.address)

    def finish(self) -> None:
        """What is not listed goes, then index.json makes the address a dataset."""
        self._require_own()
        shards = read_listing(self.folder)
        if sizes([f"{self.address}/{shard.name}" for shard in shards]) != [shard.bytes for shard in shards]:
            raise UserError(f"{self.address}: its shards were changed while they were built; run it again")
        listed = {shard.name for shard in shards}
        kept = listed | {columns_path(Path(name)).name for name in listed}
        kept |= {name for name in NOTES if (self.folder / name).exists()} | {INDEX_NAME, UNFINISHED_NAME}
        for name in listing(self.address):
            if name not in kept and name.endswith((".tar", ".idx.json", ".jsonl")):
                remove(f"{self.address}/{name}")
        self.publish_notes()
        upload(self.folder / INDEX_NAME, f"{self.address}/{INDEX_NAME}")
        remove(f"{self.address}/{UNFINISHED_NAME}")

    def _require_own(self) -> None:
        builder = self._builder()
        if builder != strict_json((self.folder / BUILDER_NAME).read_bytes()):
            other = _named(builder) if builder else "another process"
            raise UserError(f"{self.address}: {other} builds there now; this build stops")

    def _builder(self) -> dict[str, Any]:
        """Who builds at the address, by what it says; empty if nobody does."""
        try:
            found = strict_json(read_bytes(f"{self.address}/{UNFINISHED_NAME}"))
        except (Missing, ValueError):
            return {}
        builder = found.get("builder") if isinstance(found, dict) else None
        return builder if isinstance(builder, dict) else {}


@contextmanager
def staged(out: Path | str, work: Path | None = None) -> Iterator[Path]:
    """The folder to build in: `out` itself, or for an address one in `work` (the cache), which is gone afterwards.

    After an error it stays, to go on from, if there is anything in it; what is said of it is said of the address.
    UserError if another process of this machine is at it.
    """
    if not is_remote(out):
        yield Path(out)
        return
    address = require_writable(str(out).rstrip("/"))
    folder = (work or cache_folder().path / "staging") / _folder_name(address)
    with _alone(folder, address), _noted(folder, address):
        try:
            yield folder
        except UserError as error:
            if str(error).startswith("no space left"):
                raise
            with suppress(UserError):
                Publication(folder, address).publish_notes()
            if not any(folder.rglob("shard-*")):
                shutil.rmtree(folder)
            raise UserError(str(error).replace(str(folder), address)) from None
        shutil.rmtree(folder)


@contextmanager
def _alone(folder: Path, address: str) -> Iterator[None]:
    """Makes the folder, and holds it from before the corpus is read until all is published: the file locked lies
    beside it, and stays."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(f"{folder}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; give another --work directory") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process of this machine is building {address}; wait for it") from None
        except OSError:
            pass  # a file system without locks
        folder.mkdir(mode=0o700, exist_ok=True)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _noted(folder: Path, address: str) -> Iterator[None]:
    """The folder stands for the address, in this process and in those it starts, until the block ends."""
    before = os.environ.get(STAGED)
    os.environ[STAGED] = json.dumps({**json.loads(before or "{}"), os.path.abspath(folder): address})
    try:
        yield
    finally:
        os.environ.pop(STAGED) if before is None else os.environ.update({STAGED: before})


def publication_of(folder: Path) -> Publication | None:
    """Where what is made in the folder goes, or in the staging folder that it lies in; None if it stays."""
    staging: dict[str, str] = json.loads(os.environ.get(STAGED, "{}"))
    for home, below in ((folder, ""), (folder.parent, f"/{folder.name}")):
        address = staging.get(os.path.abspath(home))
        if address is not None:
            return Publication(folder, address + below)
    return None


def finished(path: Path, recipe: str) -> ShardInfo | None:
    """`index.finished_shard`, wherever the shard goes; one that a killed build had yet to publish goes up."""
    publication, info = publication_of(path.parent), finished_shard(path, recipe)
    if publication is None or info is None:
        return info if publication is None else publication.finished(path, recipe)
    publication.publish(path)
    return info


def publish(path: Path) -> None:
    """A shard that is finished in its folder goes to where it belongs."""
    publication = publication_of(path.parent)
    if publication is not None:
        publication.publish(path)


def _folder_name(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()[:16]


def _named(builder: dict[str, Any]) -> str:
    return f"process {builder.get('process')} on {builder.get('host')}"
