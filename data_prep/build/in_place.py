"""Tars of others indexed where they lie: nothing is copied but the metadata. The steps, in order:

1. the headers of every tar are read, keys made of the samples' names, a key that is there twice refused (`_survey`);
2. each tar is read by one process, each recording decoded once (foreign_tar.py);
3. quarantine.jsonl names what stayed out, then index.json declares the directory finished.

Training, scoring, features and check read such a directory as any other.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_prep.build import workdir as workplace
from data_prep.build.in_place_tar import TarResult, TarTask, index_tar
from data_prep.durable import canonical_json
from data_prep.figures import counted
from data_prep.importers.webdataset import SampleOptions, TarSample, find_tars, key_of, samples_of
from data_prep.progress import Progress
from data_prep.refusals import QUARANTINE, Note, by_reason, reasons_of, require_few, write_notes
from data_prep.shards.index import columns_path, shard_name, write_index
from data_prep.text import require_normaliser
from data_prep.workers import run_all
from model.errors import UserError, require_at_least, require_fraction


@dataclass(frozen=True)
class ForeignOptions:
    """How tars of others are indexed."""

    samples: SampleOptions = field(default_factory=SampleOptions)
    normalise: str = "none"
    """One of text.NORMALISERS."""
    verify: bool = True
    """Decode every recording; else lengths are reckoned from headers, and damage is found when it is trained on."""
    workers: int = 1
    """Processes. Changes nothing but the time."""
    max_bad: float = 0.01
    """Fraction of the samples that may be bad before it stops."""
    overwrite: bool = False
    """Replace what was indexed from other tars or with other options."""

    def __post_init__(self) -> None:
        require_normaliser(self.normalise)
        require_at_least("workers", self.workers, 1)
        require_fraction("max_bad", self.max_bad)

    def shaping(self) -> dict[str, Any]:
        """Those that change what is written."""
        return {"media": "any", "verify": self.verify, "normalise": self.normalise, **asdict(self.samples)}


@dataclass(frozen=True)
class ForeignTotals:
    """What indexing gave."""

    utterances: int
    seconds: float
    bytes: int
    """Of the tars."""
    shards: int
    bad: dict[str, int]
    """Number of samples by reason."""
    dropped: dict[str, int]
    """Empty: there is no limit to drop by."""
    unused: dict[str, int]
    """Number of members that are of no use, by their last extension."""
    kept_shards: int = 0
    """Of `shards`, those found finished by an earlier, unfinished run."""
    already_built: bool = False


def index_in_place(
    paths: Sequence[Path], out: Path, options: ForeignOptions, progress: Progress | None = None
) -> ForeignTotals:
    """Makes, or goes on making, the dataset directory `out` of tars, and of folders of tars, in order.

    UserError: no tars, one that archives.members refuses, a key twice, too many samples that cannot be used, an `out`
    that holds the tars themselves or something else.
    """
    tars = find_tars(paths)
    if any(tar.resolve().parent == out.resolve() for tar in tars):
        raise UserError(f"{out} holds the tars themselves; give the index a directory of its own")
    count = _survey(tars, options.samples)
    reading = (options.samples, options.verify, options.normalise)
    tasks = [TarTask(tar, out / shard_name(n), _source(tar, out), *reading) for n, tar in enumerate(tars)]
    found = [(task.source, (stat := task.tar.stat()).st_size, stat.st_mtime_ns) for task in tasks]
    fingerprint = {"input": hashlib.sha256(canonical_json(found)).hexdigest()}
    with workplace.claim(out, fingerprint, options.shaping(), options.overwrite) as finished:
        if finished is not None:
            return ForeignTotals(**finished["totals"], already_built=True)
        workplace.remove_stale(out, set())
        results, bad = _run(tasks, count, options, progress or Progress(count, label="index"))
        return _finish(out, results, bad, fingerprint, options)


def _survey(tars: list[Path], options: SampleOptions) -> int:
    """Number of samples. UserError for a key that two of them have."""
    count, owner = 0, {}
    hint = "rename one" if options.prefix_shard else "--prefix-shard puts the tar's name in front"
    with Progress(len(tars), "tars", label="headers") as progress:
        for tar in tars:
            samples, _ = samples_of(tar, options)
            count += len(samples)
            for sample in filter(TarSample.recordings, samples):
                key = key_of(tar, sample, options)
                if key in owner:
                    both = f"{owner[key][1]!r} in {owner[key][0]} and {sample.name!r} in {tar}"
                    raise UserError(f"key {key} is there twice: {both}; {hint}")
                owner[key] = tar, sample.name
            progress.advance()
    if not owner:
        raise UserError(
            f"no recording in {counted(len(tars), 'tar')}, the first of them {tars[0]}; are these tars of audio?"
        )
    return count


def _source(tar: Path, out: Path) -> str:
    """From `out` on where the tar lies beside or below it, so that both can move together; else the whole path."""
    tar, out = tar.resolve(), out.resolve()
    return os.path.relpath(tar, out) if tar.is_relative_to(out.parent) else str(tar)


def _run(
    tasks: list[TarTask], count: int, options: ForeignOptions, progress: Progress
) -> tuple[list[TarResult], list[Note]]:
    """All tars' results in their order, and what is bad; stops early when the bound on that is passed."""
    results: dict[int, TarResult] = {}
    bad: list[Note] = []
    with progress:
        for number, result in run_all(index_tar, tasks, options.workers, progress):
            results[number] = result
            bad += _placed(result, tasks[number].tar)
            stopped = len(results) < len(tasks)
            require_few(bad, count, options.max_bad, tasks[0].shard.with_name(QUARANTINE), stopped=stopped)
    return [results[number] for number in range(len(tasks))], bad


def _placed(result: TarResult, tar: Path) -> list[Note]:
    """What is kept beside the index names no path, so that its bytes do not depend on one."""
    return [
        {name: value for name, value in note.items() if name != "sample"} | {"audio": f"{tar}: {note['sample']}"}
        for note in result.bad
    ]


def _finish(
    out: Path, results: list[TarResult], bad: list[Note], fingerprint: dict[str, Any], options: ForeignOptions
) -> ForeignTotals:
    shards = [result.info for result in results if result.info.utterances]
    with workplace.disk_full_explained(out):
        write_notes(out / QUARANTINE, bad)
        if not shards:
            raise UserError(
                f"none of {counted(len(bad), 'sample')} can be used ({reasons_of(bad)}); see {out / QUARANTINE}"
            )
        totals = ForeignTotals(
            utterances=sum(shard.utterances for shard in shards),
            seconds=round(sum(shard.seconds for shard in shards), 4),
            bytes=sum(shard.bytes for shard in shards),
            shards=len(shards),
            bad=by_reason(bad),
            dropped={},
            unused=dict(sum((Counter(result.unused) for result in results), Counter())),
            kept_shards=sum(result.kept for result in results),
        )
        keep = {shard.name for shard in shards}
        for path in out.glob("shard-*.meta"):
            if path.with_suffix(".tar").name not in keep:
                path.unlink()
                columns_path(path).unlink(missing_ok=True)
        kept = {name: v for name, v in asdict(totals).items() if name not in ("kept_shards", "already_built")}
        write_index(out, "audio", shards, fingerprint, options.shaping(), kept)
    return totals
