"""Utterances in, shards and their index out.

The same utterances and options give the same bytes, on any number of workers. A finished shard whose recipe (input and
options) is the same is kept: this is how an interrupted build goes on."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.addresses import without_secrets
from data_prep.build.assign import BuildOptions, RunOptions, ShardTask, assign, unique
from data_prep.build.prepare import make_ready
from data_prep.build.workdir import ShardResult, Totals, claim, disk_full_explained, finish, require_not_source
from data_prep.progress import Progress
from data_prep.recordings.open import read_ahead
from data_prep.refusals import QUARANTINE, Note, Refused, require_few
from data_prep.shards.index import columns_path
from data_prep.shards.opening import finished_shard, read_document
from data_prep.shards.tar import ShardWriter
from data_prep.text import warn_about
from data_prep.utterance import Utterance
from data_prep.workers import Stopped, TaskCounts, run_all
from model.sample_rate import SAMPLE_RATE


def build(
    utterances: Iterable[Utterance], out: Path, options: BuildOptions, progress: Progress | None = None
) -> Totals:
    """Builds, or goes on building, the dataset directory `out`: sizes, assignment to shards, writing, finishing.

    UserError: no utterances, a repeated key, too many bad ones, a directory that holds something else, or the very tars
    that the corpus is read from, a full disk."""
    corpus = unique(utterances)
    if not options.part:
        warn_about((utterance.text for utterance in corpus), options.limits.normalise)
    require_not_source(corpus, out)
    tasks = assign(corpus, out, options)
    fingerprint = {"input": hashlib.sha256("".join(task.recipe for task in tasks).encode()).hexdigest()}
    with claim(out, fingerprint, options.shaping(), options.overwrite) as workdir:
        if workdir.finished:
            return workdir.finished
        audio = {utterance.key: without_secrets(utterance.audio) for utterance in corpus}
        shown = progress or Progress(len(corpus), label=f"build {options.part.partition(' ')[0]}".strip())
        total, before = options.corpus or len(corpus), options.bad_before
        results = run_bounded(write_shard, tasks, options, total, lambda _, note: audio[note["key"]], shown, before)
        return finish(workdir, "audio", results, ("bad", "dropped"))


def run_bounded(
    function: Callable[[Any, TaskCounts], ShardResult],
    tasks: Sequence[Any],
    options: RunOptions,
    total: int,
    audio_of: Callable[[Any, Note], str],
    progress: Progress,
    bad_before: int = 0,
) -> list[ShardResult]:
    """Results in the order of the tasks, `audio_of` added to their notes. UserError as soon as more than the fraction
    `options.max_bad` of `total` utterances is bad, `bad_before` included."""

    def located(task: Any, notes: list[Note]) -> list[Note]:
        # a shard's own notes hold no path, so that its bytes do not depend on one
        names = ("key", "reason", "message")
        return [{name: note[name] for name in names} | {"audio": audio_of(task, note)} for note in notes]

    results: dict[int, ShardResult] = {}
    bad: list[Note] = []
    quarantine = tasks[0].path.with_name(QUARANTINE)
    with progress:
        for number, result in run_all(function, tasks, options.workers, progress):
            task = tasks[number]
            results[number] = replace(result, bad=located(task, result.bad), dropped=located(task, result.dropped))
            bad += results[number].bad
            require_few(bad, total, options.max_bad, quarantine, bad_before, stopped=len(results) < len(tasks))
    return [results[number] for number in range(len(tasks))]


def write_shard(task: ShardTask, tally: TaskCounts) -> ShardResult:
    """One shard, written, or found finished by an earlier run. Stopped if the whole build stops meanwhile."""
    info = finished_shard(task.path, task.recipe)
    if info is not None:
        tally.add(len(task.utterances), info.seconds, kept=True)
        document = read_document(columns_path(task.path))
        return ShardResult(info, document["bad"], document["dropped"], kept=True)
    bad: list[Note] = []
    dropped: list[Note] = []
    with disk_full_explained(task.path.parent), ShardWriter(task.path) as writer:
        for utterance in read_ahead(task.utterances):
            if tally.stopped:
                raise Stopped
            samples = 0
            try:
                media, samples, meta = make_ready(utterance, task.limits)
                try:
                    writer.add(utterance.key, task.limits.media, media, meta, samples)
                except ValueError as error:
                    raise Refused("bad-metadata", " ".join(str(error).split())) from None
            except Refused as error:
                note = {"key": utterance.key, "reason": error.reason, "message": str(error)}
                (dropped if error.dropped else bad).append(note)
            tally.add(1, samples / SAMPLE_RATE)
        info = writer.close({"recipe": task.recipe, "bad": bad, "dropped": dropped})
    return ShardResult(info, bad, dropped)
