"""Utterances in, shards and their index out.

The same utterances and options give the same bytes, on any number of workers. A finished shard whose recipe (input and
options) is the same is kept: this is how an interrupted build goes on.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from data_prep.build.assign import assign, unique
from data_prep.build.finish import Totals, finish
from data_prep.build.options import BuildOptions
from data_prep.build.room import require_room
from data_prep.build.sizes import expected_bytes, measure
from data_prep.build.workdir import claim, require_not_source
from data_prep.build.write import write
from data_prep.progress import Progress
from data_prep.text import warn_about
from data_prep.utterance import Utterance

__all__ = ["BuildOptions", "Totals", "build"]


def build(
    utterances: Iterable[Utterance], out: Path, options: BuildOptions, progress: Progress | None = None
) -> Totals:
    """Builds, or goes on building, the dataset directory `out`: sizes, assignment to shards, writing, finishing.

    UserError: no utterances, a repeated key, too many bad ones, a directory that holds something else, or the very tars
    that the corpus is read from, a full disk.
    """
    corpus = unique(utterances)
    if not options.part:
        warn_about((utterance.text for utterance in corpus), options.limits.normalise)
    require_not_source(corpus, out)
    sizes = measure(corpus, options)
    require_room(out, expected_bytes(corpus, sizes, options.limits))
    tasks = assign(corpus, sizes, out, options)
    fingerprint = {"input": hashlib.sha256("".join(task.recipe for task in tasks).encode()).hexdigest()}
    with claim(out, fingerprint, options.shaping(), options.overwrite) as workdir:
        if workdir.finished:
            return workdir.finished
        results = write(tasks, options, progress)
        return finish(workdir, "audio", results, ("bad", "dropped"))
