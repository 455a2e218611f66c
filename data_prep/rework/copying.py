"""Shards written from the members of finished ones: media and metadata keep every byte, names may change.

What `reshard` and `merge` share. The CRC of each utterance is held against its old index on the way; a shard is written
by one process, and one that was finished by an earlier run is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.build import workdir as workplace
from data_prep.build.room import require_room
from data_prep.durable import canonical_json
from data_prep.progress import Progress
from data_prep.refusals import DROPPED, Note, by_reason, write_notes
from data_prep.shards.columns import BLOCK, padded
from data_prep.shards.coverage import AUDIO_CRC
from data_prep.shards.files import finished_shard
from data_prep.shards.index import FORMAT, VERSION, ShardIndex, ShardInfo, write_index
from data_prep.shards.tar import ShardWriter, read_sample
from data_prep.workers import Stopped, TaskCounts, run_all

NOT_KEPT = ("kept_shards", "already_done")  # of CopyTotals: they tell of one run, not of the data


@dataclass(frozen=True)
class CopyTotals:
    """What a dataset directory made of others holds."""

    utterances: int
    seconds: float
    bytes: int
    shards: int
    frames: int
    dropped: dict[str, int]
    """Number by reason, of those in dropped.jsonl."""
    kept_shards: int = 0
    """Of `shards`, those found finished by an earlier, unfinished run."""
    already_done: bool = False


@dataclass(frozen=True)
class CopyTask:
    """All that a worker needs to write one shard."""

    path: Path
    index: ShardIndex
    """Of this shard's utterances alone, in their order."""
    keys: tuple[str, ...]
    """Their new names."""
    extension: str
    """Of the media members."""
    notes: dict[str, Any]
    """Beside its columns: `recipe`, sha256 hex of everything that decides the shard's bytes, and what goes along."""


def copy_task(
    path: Path, index: ShardIndex, extension: str, keys: Sequence[str] = (), crcs: Sequence[int | None] = ()
) -> CopyTask:
    """The shard at `path`, of the utterances of `index`, renamed to `keys` if any are given.

    `crcs`: of features, what is known of the audio of each.
    """
    names = tuple(keys or index.key)
    tars = [[shard.sha256, shard.columns_sha256] for shard in index.shards]
    document = [FORMAT, VERSION, extension, tars, index.shard.tolist(), index.offset.tolist(), names]
    notes: dict[str, Any] = {"recipe": hashlib.sha256(canonical_json(document)).hexdigest()}
    if any(crc is not None for crc in crcs):
        notes[AUDIO_CRC] = list(crcs)
    return CopyTask(path, index, names, extension, notes)


def copy_all(
    out: Path,
    index: ShardIndex,
    tasks: list[CopyTask],
    how: dict[str, Any],
    notes: list[Note],
    workers: int,
    overwrite: bool,
    progress: Progress | None = None,
) -> CopyTotals:
    """Does the tasks, or goes on with them, and declares `out` finished; `how`: the options that tell how it was made.

    UserError: `out` taken, a full disk, an utterance that is not what its index says.
    """
    digest = hashlib.sha256("".join(task.notes["recipe"] for task in tasks).encode()).hexdigest()
    fingerprint = index.fingerprint if index.kind == "features" else {"input": digest}
    options = {**index.options, **how, "input": digest}
    with workplace.claim(out, fingerprint, options, overwrite) as finished:
        if finished is not None:
            return CopyTotals(**finished["totals"], already_done=True)
        require_room(out, sum(int(record_bytes(task.index).sum()) for task in tasks))
        with progress or Progress(sum(len(task.keys) for task in tasks), label="copy") as progress:
            results = dict(run_all(copy_shard, tasks, workers, progress))
        shards = [results[number][0] for number in range(len(tasks))]
        frames = sum(int(task.index.frames.sum()) for task in tasks)
        kept = sum(kept for _, kept in results.values())
        return declare(out, index.kind, shards, fingerprint, options, frames, notes, kept)


def copy_shard(task: CopyTask, tally: TaskCounts) -> tuple[ShardInfo, bool]:
    """One shard, and whether it was found finished. Stopped if the whole run stops meanwhile."""
    info = finished_shard(task.path, task.notes["recipe"])
    if info is not None:
        tally.add(len(task.keys), kept=True)
        return info, True
    index = task.index
    with workplace.disk_full_explained(task.path.parent), ShardWriter(task.path) as writer:
        for i, key in enumerate(task.keys):
            if tally.stopped:
                raise Stopped
            sample = read_sample(index, i)
            media, samples, frames = bytes(sample.media), int(index.samples[i]), int(index.frames[i])
            writer.add(key, task.extension, media, sample.meta, samples, frames)
            tally.add(1)
        return writer.close(task.notes), False


def declare(
    out: Path,
    kind: str,
    shards: list[ShardInfo],
    fingerprint: dict[str, Any],
    options: dict[str, Any],
    frames: int,
    notes: list[Note],
    kept: int = 0,
) -> CopyTotals:
    """Writes dropped.jsonl and, last, index.json, over shards that are all there."""
    totals = CopyTotals(
        utterances=sum(shard.utterances for shard in shards),
        seconds=round(sum(shard.seconds for shard in shards), 4),
        bytes=sum(shard.bytes for shard in shards),
        shards=len(shards),
        frames=frames,
        dropped=by_reason(notes),
        kept_shards=kept,
    )
    with workplace.disk_full_explained(out):
        write_notes(out / DROPPED, notes)
        workplace.remove_stale(out, {shard.name for shard in shards})
        document = {name: value for name, value in asdict(totals).items() if name not in NOT_KEPT}
        write_index(out, kind, shards, fingerprint, options, document)
    return totals


def record_bytes(index: ShardIndex) -> np.ndarray:
    """int64 [N], what each utterance takes in a tar: two headers, media and metadata, padded."""
    return 2 * BLOCK + padded(index.length) + padded(index.meta_length)
