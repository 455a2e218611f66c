"""Shards written by processes, each finished shard kept when a build is run again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from data_prep.addresses import without_secrets
from data_prep.build.assign import ShardTask
from data_prep.build.options import BuildOptions, ForeignOptions
from data_prep.build.prepare import make_ready
from data_prep.build.room import disk_full_explained
from data_prep.progress import Progress
from data_prep.recordings.open import read_ahead
from data_prep.refusals import QUARANTINE, Note, Refused, require_few
from data_prep.shards.index import ShardInfo, columns_path
from data_prep.shards.opening import finished_shard, read_document
from data_prep.shards.tar import ShardWriter
from data_prep.utterance import Utterance
from data_prep.workers import Stopped, TaskCounts, run_all
from model.sample_rate import SAMPLE_RATE


@dataclass(frozen=True)
class ShardResult:
    """A finished shard."""

    info: ShardInfo
    bad: list[Note] = field(default_factory=list)
    """Utterances that cannot be used."""
    dropped: list[Note] = field(default_factory=list)
    """Utterances outside the limits that the options set."""
    unused: dict[str, int] = field(default_factory=dict)
    """Members of a tar indexed in place that belong to no utterance, counted by their last extension."""
    kept: bool = False
    """Whether an earlier run had finished it."""


def write(tasks: list[ShardTask], options: BuildOptions, progress: Progress | None) -> list[ShardResult]:
    """Results in the order of the tasks. UserError for too many bad utterances and for a full disk."""
    audio = {utterance.key: without_secrets(utterance.audio) for task in tasks for utterance in task.utterances}
    progress = progress or Progress(len(audio), label=f"build {options.part.partition(' ')[0]}".strip())
    total, before = options.corpus or len(audio), options.bad_before
    return run_bounded(write_shard, tasks, options, total, lambda task, note: audio[note["key"]], progress, before)


def run_bounded(
    function: Callable[[Any, TaskCounts], ShardResult],
    tasks: Sequence[Any],
    options: BuildOptions | ForeignOptions,
    total: int,
    audio_of: Callable[[Any, Note], str],
    progress: Progress,
    bad_before: int = 0,
) -> list[ShardResult]:
    """Results in the order of the tasks, `audio_of` added to their notes.

    UserError as soon as more than the fraction `options.max_bad` of `total` utterances is bad, `bad_before` included.
    """

    def located(task: Any, notes: list[Note]) -> list[Note]:
        # a shard's own notes hold no path, so that its bytes do not depend on one
        return [
            {name: value for name, value in note.items() if name != "sample"} | {"audio": audio_of(task, note)}
            for note in notes
        ]

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
    media, samples, meta = make_ready(utterance, task.limits)
    try:
        writer.add(utterance.key, task.limits.media, media, meta, samples)
    except ValueError as error:
        raise Refused("bad-metadata", " ".join(str(error).split())) from None
    return samples / SAMPLE_RATE
