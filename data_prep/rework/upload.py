"""A finished dataset directory copied to an address: the files that its index lists and the notes of what stayed out.

A directory may come from anybody, and what is sent may be read by others: so no link is followed, and each tar is held
against its hash."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_prep.progress import Progress
from data_prep.refusals import DROPPED, QUARANTINE
from data_prep.remote.objects import listing, read_bytes, remove, require_writable, size, upload, write_bytes
from data_prep.shards.index import INDEX_NAME, ShardInfo, columns_path
from data_prep.shards.opening import UNFINISHED_NAME, read_index, require_plain
from model.errors import UserError
from model.files import file_sha256

NO_LINK = os.O_NOFOLLOW | os.O_NONBLOCK
PARALLEL_UPLOADS = 4  # files; large ones go up in parallel parts as well


def publish_directory(root: Path, address: str) -> int:
    """Copies a finished dataset directory to the address, and returns the number of shards that were not there yet.

    UserError: not finished, or the address holds something else; a file that is a link, or is not what the index says.
    Nothing else that lies in the directory is sent."""
    index, address = read_index(root), require_writable(address)
    names = set(listing(address))
    if UNFINISHED_NAME in names:
        raise UserError(f"{address} holds a build that is not finished; finish or remove it, or give another address")
    if INDEX_NAME in names and read_bytes(f"{address}/{INDEX_NAME}") != (root / INDEX_NAME).read_bytes():
        raise UserError(f"{address} holds another dataset; give another address")
    if any(info.source for info in index.shards):
        raise UserError(f"{root} indexes tars that lie elsewhere; publish those, and index them at their address")

    def copy(info: ShardInfo) -> bool:
        tar, columns = root / info.name, columns_path(root / info.name)
        there = columns.name in names and read_bytes(f"{address}/{columns.name}") == columns.read_bytes()
        if there and size(f"{address}/{info.name}") == info.bytes:
            return False
        require_plain(columns)
        if file_sha256(require_plain(tar)) != info.sha256:
            raise UserError(f'{tar} has changed since it was made; run "slam-asr prep check {root}"')
        remove(f"{address}/{columns.name}")  # former columns would call a tar finished that is being replaced
        upload(tar, f"{address}/{tar.name}")
        upload(columns, f"{address}/{columns.name}")
        return True

    count = 0
    progress = Progress(len(index.shards), unit="shards", label="publish")
    with progress, ThreadPoolExecutor(PARALLEL_UPLOADS) as pool:
        for copied in pool.map(copy, index.shards):
            count += copied
            progress.advance()
    for name in (QUARANTINE, DROPPED):
        try:
            with open(root / name, "rb", opener=lambda path, how: os.open(path, how | NO_LINK)) as file:
                write_bytes(f"{address}/{name}", file.read())
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(f"cannot read {root / name}: {error.strerror}; it must be a file, no link") from None
    upload(require_plain(root / INDEX_NAME), f"{address}/{INDEX_NAME}")
    return count
