"""Utterances in, shards and their index out. The steps, in order:

1. every utterance gets its shard and place, by a hash of seed and key, whatever the order they came in (assign.py);
2. each shard is written by one process, under a temporary name, and published with its columns (`write_shard`);
   a finished shard whose recipe (input and options) is the same is kept: this is how a killed build goes on;
3. quarantine.jsonl and dropped.jsonl name what stayed out, then index.json declares the directory finished (`_finish`).

The same utterances and options give the same bytes, on any number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.addresses import is_remote, without_secrets
from data_prep.build import workdir as workplace
from data_prep.build.assign import NEED_SECONDS, Packing, ShardTask, shard_tasks, unique
from data_prep.build.lengths import Size, measure
from data_prep.build.options import BuildOptions, Totals
from data_prep.build.prepare import make_ready
from data_prep.build.room import expected_bytes, require_room, when_full
from data_prep.figures import counted
from data_prep.progress import Progress
from data_prep.recordings.remote import read_ahead
from data_prep.refusals import (
    DROPPED,
    QUARANTINE,
    Note,
    Refused,
    by_reason,
    reasons_of,
    require_few,
    write_notes,
)
from data_prep.shards.files import finished_shard, read_document
from data_prep.shards.index import ShardInfo, columns_path, write_index
from data_prep.shards.tar import ShardWriter
from data_prep.text import warn_about
from data_prep.utterance import Utterance
from data_prep.workers import Stopped, TaskCounts, run_all
from model.errors import UserError
from model.sample_rate import SAMPLE_RATE

__all__ = ["BuildOptions", "Totals", "build"]

NOT_KEPT = ("kept_shards", "already_built")  # of Totals: they tell of one run, not of the data


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

    UserError: no utterances, a key twice, too many bad ones, a directory that holds something else, or the very tars
    that the corpus is read from, a full disk.
    """
    corpus = unique(utterances)
    if not options.part:
        warn_about((utterance.text for utterance in corpus), options.limits.normalise)
    workplace.require_not_source(archives_of(corpus), out)
    sizes = _sizes(corpus, options)
    expected = expected_bytes(corpus, sizes, options.limits)
    require_room(out, expected)
    packing = Packing(options.shard_size, options.shard_bytes)
    tasks = shard_tasks(corpus, sizes, out, options.shuffle, options.seed, packing, options.limits)
    fingerprint = {"input": hashlib.sha256("".join(task.recipe for task in tasks).encode()).hexdigest()}
    with workplace.claim(out, fingerprint, options.shaping(), options.overwrite) as finished:
        if finished is not None:
            return Totals(**finished["totals"], already_built=True)
        audio = {utterance.key: without_secrets(utterance.audio) for utterance in corpus}
        progress = progress or Progress(len(corpus), label=f"build {options.part.partition(' ')[0]}".strip())
        results = _run(tasks, audio, options, expected, progress)
        return _finish(out, results, audio, fingerprint, options)


def archives_of(corpus: Iterable[Utterance]) -> set[str]:
    """Paths of the local archives that recordings are parts of."""
    return {u.audio for u in corpus if u.part.startswith("bytes:") and not is_remote(u.audio)}


def write_shard(task: ShardTask, tally: TaskCounts) -> ShardResult:
    """One shard, written or found finished. Stopped if the whole build stops meanwhile."""
    info = finished_shard(task.path, task.recipe)
    if info is not None:
        tally.add(len(task.utterances), info.seconds, kept=True)
        document = read_document(columns_path(task.path))
        return ShardResult(info, document["bad"], document["dropped"], kept=True)
    bad: list[Note] = []
    dropped: list[Note] = []
    with workplace.disk_full_explained(task.path.parent), ShardWriter(task.path) as writer:
        for utterance in read_ahead(task.utterances):
            if tally.stopped:
                raise Stopped
            seconds = 0.0
            try:
                seconds = _add(writer, utterance, task)
            except Refused as error:
                note = {"key": utterance.key, "reason": error.reason, "message": str(error)}
                (dropped if error.dropped else bad).append(note)
            tally.add(1, seconds)
        info = writer.close({"recipe": task.recipe, "bad": bad, "dropped": dropped})
    return ShardResult(info, bad, dropped)


def _add(writer: ShardWriter, utterance: Utterance, task: ShardTask) -> float:
    """Writes the utterance and returns its seconds."""
    ready = make_ready(utterance, task.limits)
    try:
        writer.add(utterance.key, task.limits.media, ready.media, ready.meta, ready.samples)
    except ValueError as error:
        raise Refused("bad-metadata", " ".join(str(error).split())) from None
    return ready.samples / SAMPLE_RATE


def _sizes(corpus: Sequence[Utterance], options: BuildOptions) -> list[Size]:
    """Of each utterance, where the options ask for them; else none."""
    if not options.shard_bytes and options.shuffle not in NEED_SECONDS:
        return []
    return measure(corpus, options.limits, options.workers, only_seconds=not options.shard_bytes)


def _run(
    tasks: list[ShardTask], audio: dict[str, str], options: BuildOptions, expected: int, progress: Progress
) -> list[ShardResult]:
    """All shards' results in shard order; stops early when the bound on bad utterances is passed."""
    results: dict[int, ShardResult] = {}
    bad: list[Note] = []
    total, out = options.corpus or len(audio), tasks[0].path.parent
    try:
        with progress:
            for number, result in run_all(write_shard, tasks, options.workers, progress):
                results[number] = result
                bad += _placed(result.bad, audio)
                stopped = len(results) < len(tasks)
                require_few(bad, total, options.max_bad, out / QUARANTINE, options.bad_before, stopped)
    except workplace.DiskFull:
        done = sum(len(tasks[number].utterances) for number in results)
        written = sum(result.info.bytes for result in results.values())
        raise UserError(when_full(out, written, done, len(audio), expected)) from None
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
        write_notes(out / QUARANTINE, _placed(bad, audio))
        write_notes(out / DROPPED, _placed(dropped, audio))
        if not shards:
            reasons = reasons_of(bad + dropped)
            raise UserError(
                f"none of {counted(len(audio), 'utterance')} can be used ({reasons}); see {QUARANTINE}, {DROPPED} "
                f"in {out}"
            )
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
