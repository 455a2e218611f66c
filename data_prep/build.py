"""Utterances in, shards and their index out. The steps, in order:

1. every utterance gets its shard and place, by a hash of seed and key, whatever the order they came in (assign.py);
2. each shard is written by one process, under a temporary name, and published with its columns (`write_shard`);
   a finished shard whose recipe (input and options) is the same is kept: this is how a killed build goes on;
3. bad.jsonl and dropped.jsonl name what stayed out, then index.json declares the directory finished (`_finish`).

The same utterances and options give the same bytes, on any number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_prep import workplace
from data_prep.assign import ShardTask, in_shard_order, shard_tasks, warn_about_capitals
from data_prep.audio import one_thread
from data_prep.index import ShardInfo, columns_path, finished_shard, read_document, write_index
from data_prep.prepare import Limits, Refused, make_ready
from data_prep.progress import Progress
from data_prep.refusals import Note, by_reason, require_few, write_notes
from data_prep.shards import ShardWriter
from data_prep.utterance import Utterance
from data_prep.workers import InPlace, Stopped, Tally, run_all
from model.errors import UserError

NOT_KEPT = ("kept_shards", "already_built")  # of Totals: they tell of one run, not of the data


@dataclass(frozen=True)
class BuildOptions:
    """How the shards are made."""

    shard_size: int = 1000
    """Utterances a shard: about 200 MB of read speech."""
    seed: int = 0
    """Of the shuffle over shards."""
    workers: int = 1
    """Processes. Changes nothing but the time."""
    max_bad: float = 0.01
    """Fraction of the corpus that may be bad before the build stops."""
    overwrite: bool = False
    """Replace what was built from other input or options."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name in ("shard_size", "workers"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, it must be at least 1")
        if not 0 <= self.max_bad <= 1:
            raise UserError(f"max_bad is {self.max_bad:g}, it is a fraction from 0 to 1")

    def shaping(self) -> dict[str, Any]:
        """Those that change what is written."""
        return {"shard_size": self.shard_size, "seed": self.seed, **asdict(self.limits)}


@dataclass(frozen=True)
class Totals:
    """What a build gave."""

    utterances: int
    seconds: float
    bytes: int
    shards: int
    bad: dict[str, int]
    """Number by reason."""
    dropped: dict[str, int]
    kept_shards: int = 0
    """Of `shards`, those found finished by an earlier, unfinished run."""
    already_built: bool = False


@dataclass(frozen=True)
class ShardResult:
    """What a worker gives back."""

    info: ShardInfo
    bad: list[Note]
    dropped: list[Note]
    kept: bool = False


def build(
    utterances: Iterable[Utterance], out: Path, options: BuildOptions, progress: Progress | None = None
) -> Totals:
    """Builds, or goes on building, the dataset directory `out`.

    UserError: no utterances, a key twice, too many bad ones, a directory that holds something else, a full disk.
    """
    ordered = in_shard_order(utterances, options.seed)
    warn_about_capitals(ordered, options.limits)
    tasks = shard_tasks(ordered, out, options.shard_size, options.limits)
    fingerprint = {"input": hashlib.sha256("".join(task.recipe for task in tasks).encode()).hexdigest()}
    with workplace.claim(out, fingerprint, options.shaping(), options.overwrite) as finished:
        if finished is not None:
            return Totals(**finished["totals"], already_built=True)
        results = _run(tasks, len(ordered), options, progress or Progress(len(ordered), label="build"))
        return _finish(out, results, {u.key: u.audio for u in ordered}, fingerprint, options)


def write_shard(task: ShardTask, tally: Tally | InPlace) -> ShardResult:
    """One shard, written or found finished. Stopped if the whole build stops meanwhile."""
    info = finished_shard(task.path, task.recipe)
    if info is not None:
        tally.add(len(task.utterances))
        document = read_document(columns_path(task.path))
        return ShardResult(info, document["bad"], document["dropped"], kept=True)
    bad: list[Note] = []
    dropped: list[Note] = []
    with workplace.disk_full_explained(task.path.parent), one_thread(), ShardWriter(task.path) as writer:
        for utterance in task.utterances:
            if tally.stopped:
                raise Stopped
            try:
                ready = make_ready(utterance, task.limits)
                writer.add(utterance.key, "flac", ready.media, ready.meta, ready.samples)
            except Refused as error:
                note = {"key": utterance.key, "reason": error.reason, "message": str(error)}
                (dropped if error.dropped else bad).append(note)
            tally.add(1)
        return ShardResult(writer.close({"recipe": task.recipe, "bad": bad, "dropped": dropped}), bad, dropped)


def _run(tasks: list[ShardTask], total: int, options: BuildOptions, progress: Progress) -> list[ShardResult]:
    """All shards' results in shard order; stops early when the bound on bad utterances is passed."""
    results: dict[int, ShardResult] = {}
    bad: list[Note] = []
    audio = {utterance.key: utterance.audio for task in tasks for utterance in task.utterances}
    with progress:
        for number, result in run_all(write_shard, tasks, options.workers, progress):
            results[number] = result
            bad += _placed(result.bad, audio)
            require_few(bad, total, options.max_bad, tasks[0].path.with_name("bad.jsonl"))
    return [results[number] for number in range(len(tasks))]


def _finish(
    out: Path,
    results: list[ShardResult],
    audio: dict[str, str],
    fingerprint: dict[str, Any],
    options: BuildOptions,
) -> Totals:
    bad = [note for result in results for note in result.bad]
    dropped = [note for result in results for note in result.dropped]
    shards = [result.info for result in results if result.info.utterances]
    with workplace.disk_full_explained(out):
        write_notes(out / "bad.jsonl", _placed(bad, audio))
        write_notes(out / "dropped.jsonl", _placed(dropped, audio))
        if not shards:
            raise UserError(f"none of {len(audio):,} utterances can be used; see bad.jsonl and dropped.jsonl in {out}")
        totals = Totals(
            utterances=sum(shard.utterances for shard in shards),
            seconds=round(sum(shard.seconds for shard in shards), 4),
            bytes=sum(shard.bytes for shard in shards),
            shards=len(shards),
            bad=by_reason(bad),
            dropped=by_reason(dropped),
            kept_shards=sum(result.kept for result in results),
        )
        workplace.remove_stale(out, {shard.name for shard in shards})
        document = {name: value for name, value in asdict(totals).items() if name not in NOT_KEPT}
        write_index(out, "audio", shards, fingerprint, options.shaping(), document)
    return totals


def _placed(notes: list[Note], audio: dict[str, str]) -> list[Note]:
    """The shard's own notes name no path, so that its bytes do not depend on one."""
    return [{**note, "audio": audio[note["key"]]} for note in notes]
