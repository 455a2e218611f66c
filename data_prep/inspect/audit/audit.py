"""Integrity and judgement of a dataset directory in one pass, one decode an utterance. The steps, in order:

1. each shard is checked (check.py) and its utterances measured (measures.py) by one process: one row each;
2. rows are held against rules (rules.py) and against those of other directories (overlap.py);
3. the worst of each rule are read once more, for their transcripts (findings.py).

The same bytes give the same audit, on any number of workers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.addresses import is_remote
from data_prep.durable import encodable
from data_prep.inspect.audit.findings import Applied, Finding, Surveyed, apply, apply_overlap, write_flagged
from data_prep.inspect.audit.measures import Measured, Measurer, joined
from data_prep.inspect.audit.overlap import overlaps
from data_prep.inspect.audit.rules import AUDIO_JUDGEMENTS, SET_JUDGEMENTS, TEXT_JUDGEMENTS
from data_prep.inspect.audit.spread import Spread, spreads
from data_prep.inspect.check import ShardCheck, check_shard, in_order, open_index, shard_checks
from data_prep.inspect.stats import Breakdown, breakdown
from data_prep.progress import Progress
from data_prep.shards.index import INDEX_NAME
from data_prep.shards.opening import read_index
from data_prep.workers import TaskCounts, run_all
from model.errors import UserError, require_at_least

GROUPS = {"text": TEXT_JUDGEMENTS, "audio": AUDIO_JUDGEMENTS, "set": SET_JUDGEMENTS}


@dataclass(frozen=True)
class AuditOptions:
    """How an audit is made."""

    workers: int = 1
    """Processes. Changes nothing but the time."""
    quick: bool = False
    """Decode nothing: integrity by hash, judgements by metadata and index."""
    against: tuple[str, ...] = ()
    """Directories that should share nothing with this one: the test sets of a training set."""
    flagged: Path | None = None
    """File to list all utterances in that judgements found, as `write_flagged` does."""

    def __post_init__(self) -> None:
        require_at_least("workers", self.workers, 1)


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
    against: tuple[str, ...]
    problems: tuple[str, ...]
    findings: tuple[Finding, ...]
    """One a judgement that was applied, found something or not."""
    not_judged: tuple[str, ...]
    """Judgements that could be applied to no utterance."""
    spreads: tuple[Spread, ...]
    languages: Breakdown
    speakers: Breakdown

    @property
    def raised(self) -> tuple[Finding, ...]:
        """Findings that found something."""
        return tuple(finding for finding in self.findings if finding.count)


def audit(root: str | os.PathLike[str], options: AuditOptions | None = None) -> Audit:
    """UserError only where a directory is none, or is to be held against itself; all else is in what it returns."""
    options = options or AuditOptions()
    root = os.fspath(root)
    for other in options.against:
        if _resolved(other) == _resolved(root):
            raise UserError(f"--against {other} is the very directory that is checked; give another one")
    for other in options.against:
        if not is_remote(other) and not (Path(other) / INDEX_NAME).exists():
            read_index(other)  # says so now, before an hour's reading
    surveyed = _survey(root, options)
    others = [_survey(other, options) for other in options.against]
    applied = _applied(surveyed, others)
    if options.flagged is not None:
        write_flagged(options.flagged, applied, surveyed)
    index, rows = surveyed.index, surveyed.measured.rows
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
        against=tuple(map(encodable, options.against)),
        problems=tuple(map(encodable, problems)),
        findings=tuple(finding for finding in findings if finding.judged),
        not_judged=(*(finding.name for finding in findings if not finding.judged), *map(encodable, unread)),
        spreads=spreads(surveyed.measured),
        languages=breakdown(rows["language"], rows["seconds"], surveyed.measured.languages),
        speakers=breakdown(rows["speaker"], rows["seconds"], surveyed.measured.speakers),
    )


def _resolved(root: str) -> str:
    return root.rstrip("/") if is_remote(root) else os.path.realpath(root)


def _survey(root: str, options: AuditOptions) -> Surveyed:
    index, wrong = open_index(root)
    tasks = shard_checks(root, index, decode=not options.quick)
    found: dict[int, tuple[list[str], Measured]] = {}
    if tasks:
        with Progress(
            0 if index is None else len(index), label=f"check {os.path.basename(os.path.normpath(root))}"
        ) as progress:
            found.update(run_all(_survey_shard, tasks, options.workers, progress))
    problems = in_order(wrong, {number: lines for number, (lines, _) in found.items()})
    firsts = [] if index is None else np.searchsorted(index.shard, np.arange(len(tasks))).tolist()
    return Surveyed(root, problems, index, joined((found[number][1], first) for number, first in enumerate(firsts)))


def _survey_shard(task: ShardCheck, tally: TaskCounts) -> tuple[list[str], Measured]:
    measurer = Measurer(task.index)
    return check_shard(task, tally, measurer.look), measurer.measured()


def _applied(surveyed: Surveyed, others: list[Surveyed]) -> list[Applied]:
    """Each judgement, and the overlaps with each of the others."""
    index = surveyed.index
    if index is None:
        return []
    applied = [apply(name, group, rule, surveyed) for group, rules in GROUPS.items() for name, rule in rules.items()]
    for other in others:
        if other.index is not None:
            audio = index.kind == other.index.kind == "audio"
            frames = index.kind == other.index.kind == "features" and index.fingerprint == other.index.fingerprint
            found = overlaps(surveyed.measured, other.measured, same_kind=audio or frames)
            applied += [apply_overlap(name, overlap, surveyed, other) for name, overlap in found.items()]
    return applied
