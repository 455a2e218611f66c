"""Integrity and judgement of a dataset directory in one pass, one decode an utterance. The steps, in order:

1. each shard is checked (check.py) and its utterances measured (measures.py) by one process: one row each;
2. rows are held against rules (rules.py) and against those of other directories (findings.py);
3. the worst of each rule are read once more, for their transcripts.

The same bytes give the same audit, on any number of workers.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.addresses import is_remote
from data_prep.durable import encodable
from data_prep.inspect.audit.findings import Finding, Surveyed, apply, overlaps, write_flagged
from data_prep.inspect.audit.measures import Measured, Measurer, joined
from data_prep.inspect.audit.rules import RULES
from data_prep.inspect.check import CheckOptions, ShardCheck, check_all, check_shard, webdataset_shards
from data_prep.inspect.stats import Breakdown, breakdown
from data_prep.shards.index import INDEX_NAME
from data_prep.shards.opening import read_index
from data_prep.workers import TaskCounts
from model.errors import UserError

BARS = 40
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True)
class Spread:
    """A histogram of BARS bars from `low` to `high`; what lies outside is counted in the first and the last."""

    name: str
    unit: str
    low: float
    high: float
    counts: tuple[int, ...]
    quantiles: tuple[float, ...]
    """At QUANTILES."""


@dataclass(frozen=True)
class Audit:
    """All that was found; problems apart, in no more space for a million utterances than for a hundred."""

    root: str
    kind: str
    """audio or features; "" where the index cannot be read."""
    utterances: int
    measured: int
    """Of these, those that could be read."""
    seconds: float
    shards: int
    bytes: int
    decoded: bool
    webdataset: int
    """Shards that webdataset read too."""
    against: tuple[str, ...]
    problems: tuple[str, ...]
    findings: tuple[Finding, ...]
    """One a rule that was applied, found something or not."""
    not_judged: tuple[str, ...]
    """Rules that could be applied to no utterance."""
    spreads: tuple[Spread, ...]
    languages: Breakdown
    speakers: Breakdown

    @property
    def raised(self) -> tuple[Finding, ...]:
        """Findings that found something."""
        return tuple(finding for finding in self.findings if finding.count)


def audit(
    root: str | os.PathLike[str],
    options: CheckOptions | None = None,
    against: tuple[str, ...] = (),
    flagged: Path | None = None,
) -> Audit:
    """`against`: directories that should share nothing with this one, such as the test sets of a training set.
    `flagged`: file to list all utterances in that rules found, as `write_flagged` does.

    UserError only where a directory is none, or is to be held against itself; all else is in what it returns."""
    options, root = options or CheckOptions(), os.fspath(root)
    for other in against:
        if _resolved(other) == _resolved(root):
            raise UserError(f"--against {other} is the very directory that is checked; give another one")
    for other in against:
        if not is_remote(other) and not (Path(other) / INDEX_NAME).exists():
            read_index(other)  # raises now, before an hour's reading
    surveyed, *others = (_survey(place, options) for place in (root, *against))
    index, rows = surveyed.index, surveyed.measured.rows
    applied = [apply(group, rule, surveyed) for group, rules in RULES.items() for rule in rules if index is not None]
    applied += [overlap for other in others for overlap in overlaps(surveyed, other)]
    if flagged is not None:
        write_flagged(flagged, applied, surveyed)
    problems = [*surveyed.problems, *(f"{other.root}: {line}" for other in others for line in other.problems)]
    findings = [one.finding for one in applied]
    unread = [f"overlap with {other.root}" for other in others if other.index is None]
    shards = () if index is None else index.shards
    return Audit(
        root=encodable(root),
        kind="" if index is None else index.kind,
        utterances=0 if index is None else len(index),
        measured=len(rows),
        seconds=0.0 if index is None else index.seconds,
        shards=len(shards),
        bytes=sum(shard.bytes for shard in shards),
        decoded=not options.quick,
        webdataset=0 if index is None else len(webdataset_shards(index, options)),
        against=tuple(map(encodable, against)),
        problems=tuple(map(encodable, problems)),
        findings=tuple(finding for finding in findings if finding.judged),
        not_judged=(*(finding.name for finding in findings if not finding.judged), *map(encodable, unread)),
        spreads=spreads(surveyed.measured),
        languages=breakdown(rows["language"], rows["seconds"], surveyed.measured.languages),
        speakers=breakdown(rows["speaker"], rows["seconds"], surveyed.measured.speakers),
    )


def spreads(measured: Measured) -> tuple[Spread, ...]:
    """How a set is spread over lengths, rates and levels, of whatever was measured."""
    rows = measured.rows
    rate = rows["characters"] / np.maximum(rows["seconds"], 1e-3)
    table = (
        ("length", "s", 0, 40, rows["seconds"]),
        ("rate", "characters a second", 0, 40, rate),
        ("level of loud frames", "dBFS", -60, 0, rows["level"]),
        ("silence", "% of frames", 0, 100, 100 * rows["silence"]),
    )
    spreads = []
    for name, unit, low, high, values in table:
        values = values[~np.isnan(values)].astype(float)
        if len(values):
            counts, _ = np.histogram(np.clip(values, low, high), BARS, (low, high))
            quantiles = tuple(round(float(q), 3) for q in np.quantile(values, QUANTILES))
            spreads.append(Spread(name, unit, low, high, tuple(counts.tolist()), quantiles))
    return tuple(spreads)


def _resolved(root: str) -> str:
    return root.rstrip("/") if is_remote(root) else os.path.realpath(root)


def _survey(root: str, options: CheckOptions) -> Surveyed:
    index, problems, parts = check_all(root, _survey_shard, options)
    firsts = [] if index is None else np.searchsorted(index.shard, np.arange(len(index.shards))).tolist()
    return Surveyed(root, problems, index, joined(zip(parts, firsts, strict=False)))


def _survey_shard(task: ShardCheck, tally: TaskCounts) -> tuple[list[str], Measured]:
    measurer = Measurer(task.index)
    return check_shard(task, tally, measurer.look), measurer.measured()
