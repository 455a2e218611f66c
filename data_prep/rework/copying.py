"""The engine of merge and reshard: new shards from the utterances of finished ones, media and metadata unchanged.

A new shard is an old tar under a new number (linked, or copied), or written from members of old tars, each held against
its CRC. A shard is made by one process, and one that an earlier run had finished is kept.
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.addresses import is_remote
from data_prep.build.finish import Totals, finish
from data_prep.build.room import disk_full_explained, require_room
from data_prep.build.workdir import claim
from data_prep.build.write import ShardResult
from data_prep.durable import canonical_json, replacing, write_durably
from data_prep.progress import Progress
from data_prep.refusals import Note
from data_prep.shards.coverage import AUDIO_CRC
from data_prep.shards.index import BLOCK, FORMAT, VERSION, ShardIndex, columns_path, padded
from data_prep.shards.opening import finished_shard, read_document, shard_path
from data_prep.shards.tar import ShardWriter, read_sample
from data_prep.workers import Stopped, TaskCounts, run_all
from model.errors import UserError

PIECE = 1 << 22  # bytes copied at a time


@dataclass(frozen=True)
class CopyTask:
    """All that a worker needs to make one shard."""

    path: Path
    index: ShardIndex
    """Of this shard's utterances alone, in their order."""
    extension: str = ""
    """Of the media members."""
    keys: Sequence[str] = ()
    """New names, if any."""
    crcs: Sequence[int | None] = ()
    """Of features, the CRC of each utterance's audio, where it is known."""
    columns: Path | None = None
    """Of the one old shard, if its tar stays as it is."""
    link: bool = False
    """Rather than copy such a tar, where that is possible."""

    def notes(self) -> dict[str, Any]:
        """Written beside the columns: `recipe`, sha256 hex of everything that decides the shard's bytes, and CRCs."""
        index, names = self.index, tuple(self.keys or self.index.key)
        tars = [[shard.sha256, shard.columns_sha256] for shard in index.shards]
        document = [FORMAT, VERSION, self.extension, tars, index.shard.tolist(), index.offset.tolist(), names]
        known = {AUDIO_CRC: list(self.crcs)} if any(crc is not None for crc in self.crcs) else {}
        return {"recipe": hashlib.sha256(canonical_json(document)).hexdigest(), **known}


def copy_all(
    out: Path,
    index: ShardIndex,
    tasks: list[CopyTask],
    options: dict[str, Any],
    dropped: Sequence[Note] = (),
    workers: int = 1,
    overwrite: bool = False,
) -> Totals:
    """Makes, or goes on making, the dataset directory `out` of utterances of `index`; `options` say how.

    UserError: `out` taken, a full disk, an utterance or a tar that is not what its index says.
    """
    rewritten, digest, options = [task for task in tasks if not task.columns], index.digest(), index.options | options
    if rewritten:
        digest = hashlib.sha256("".join(task.notes()["recipe"] for task in tasks).encode()).hexdigest()
        options["input"] = digest
    fingerprint = index.fingerprint if index.kind == "features" else {"input": digest}
    with claim(out, fingerprint, options, overwrite) as workdir:
        if workdir.finished:
            return workdir.finished
        require_room(out, sum(int(record_bytes(task.index).sum()) for task in rewritten))
        with Progress(sum(len(task.index) for task in tasks), label="copy") as progress:
            results = dict(run_all(make_shard, tasks, workers, progress))
        frames = sum(int(task.index.frames.sum()) for task in tasks)
        ordered = [results[number] for number in range(len(tasks))]
        return finish(workdir, index.kind, ordered, ("dropped",), dropped, frames=frames)


def make_shard(task: CopyTask, tally: TaskCounts) -> ShardResult:
    """One shard, made, or found finished by an earlier run. Stopped if the whole run stops meanwhile."""
    index = task.index
    with disk_full_explained(task.path.parent):
        if task.columns:
            result = _adopt(task, task.columns)
            tally.add(len(index), kept=result.kept)
            return result
        notes = task.notes()
        info = finished_shard(task.path, notes["recipe"])
        if info:
            tally.add(len(index), kept=True)
            return ShardResult(info, kept=True)
        with ShardWriter(task.path) as writer:
            for i, key in enumerate(task.keys or index.key):
                if tally.stopped:
                    raise Stopped
                sample = read_sample(index, i)
                media, samples, frames = bytes(sample.media), int(index.samples[i]), int(index.frames[i])
                writer.add(key, task.extension, media, sample.meta, samples, frames)
                tally.add(1)
            return ShardResult(writer.close(notes))


def record_bytes(index: ShardIndex) -> np.ndarray:
    """int64 [N], the bytes of each utterance in a tar: two headers, media and metadata, padded."""
    return 2 * BLOCK + padded(index.length) + padded(index.meta_length)


def _adopt(task: CopyTask, columns: Path) -> ShardResult:
    """The one old tar under its new name, with its old columns but for the name in them."""
    (shard,), path = task.index.shards, task.path
    document = read_document(columns)
    described = canonical_json({**document, "shard": {**document["shard"], "name": path.name}})
    info = replace(shard, name=path.name, columns_sha256=hashlib.sha256(described).hexdigest())
    with suppress(OSError):
        if path.stat().st_size == shard.bytes and columns_path(path).read_bytes() == described:
            return ShardResult(info, kept=True)
    columns_path(path).unlink(missing_ok=True)  # first, as it declares the tar finished
    path.unlink(missing_ok=True)
    source = shard_path(task.index, 0)
    try:
        if not task.link or is_remote(task.index.location(0)):
            raise OSError
        os.link(source, path)
    except OSError:  # another file system, or one without links
        _copy(source, path, shard.sha256)
    write_durably(columns_path(path), described)
    return ShardResult(info)


def _copy(source: Path, path: Path, sha256: str) -> None:
    with open(source, "rb") as old, replacing(path) as new:
        shutil.copyfileobj(old, new, PIECE)
        old.seek(0)
        if hashlib.file_digest(old, "sha256").hexdigest() != sha256:
            raise UserError(f'{source} has changed since it was made; run "slam-asr prep check {source.parent}"')
