"""Existing webdataset tars indexed in place: only metadata is written. The steps, in order:

1. the headers of every tar are read, keys made of the samples' names, a repeated key refused (`_survey`);
2. each tar is read by one process, each recording decoded once (in_place_tar.py);
3. quarantine.jsonl names what stayed out, then index.json declares the directory finished (finish.py).

Training, scoring, features and check read such a directory like any other.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_prep.build.finish import Totals, finish
from data_prep.build.in_place_tar import TarTask, index_tar
from data_prep.build.options import ForeignOptions
from data_prep.build.workdir import claim
from data_prep.build.write import run_bounded
from data_prep.durable import canonical_json
from data_prep.figures import counted
from data_prep.importers.webdataset import SampleOptions, TarSample, find_tars, key_of, samples_of
from data_prep.progress import Progress
from data_prep.shards.index import shard_name
from model.errors import UserError

__all__ = ["ForeignOptions", "index_in_place"]


def index_in_place(
    paths: Sequence[Path], out: Path, options: ForeignOptions, progress: Progress | None = None
) -> Totals:
    """Makes, or goes on making, the dataset directory `out` of tars, and of folders of tars, in order.

    UserError: no tars, one that tar_members.members refuses, a repeated key, too many samples that cannot be used, an
    `out` that holds the tars themselves or something else.
    """
    tars = find_tars(paths)
    if any(tar.resolve().parent == out.resolve() for tar in tars):
        raise UserError(f"{out} holds the tars themselves; give the index a directory of its own")
    count = _survey(tars, options.samples)
    tasks = [TarTask(tar, out / shard_name(n), _source(tar, out), options) for n, tar in enumerate(tars)]
    states = [(task.source, (stat := task.tar.stat()).st_size, stat.st_mtime_ns) for task in tasks]
    fingerprint = {"input": hashlib.sha256(canonical_json(states)).hexdigest()}
    with claim(out, fingerprint, options.shaping(), options.overwrite) as workdir:
        if workdir.finished:
            return workdir.finished
        progress = progress or Progress(count, label="index")
        results = run_bounded(
            index_tar, tasks, options, count, lambda task, note: f"{task.tar}: {note['sample']}", progress
        )
        unused = dict(sum((Counter(result.unused) for result in results), Counter()))
        return finish(workdir, "audio", results, ("bad", "dropped"), unused=unused)


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
    """The tar's path relative to `out` where it lies beside or below it, so that both can move together; else whole."""
    tar, out = tar.resolve(), out.resolve()
    return os.path.relpath(tar, out) if tar.is_relative_to(out.parent) else str(tar)
