"""Integrity and judgement of a dataset directory in one pass, one decode an utterance. The steps, in order:

1. each shard is checked (check.py) and its utterances measured (measures.py) by one process: one row each;
2. rows are held against rules (rules.py) and against those of other directories (`overlaps`);
3. the worst of each rule are read once more, for their transcripts.

The same bytes give the same audit, on any number of workers."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.addresses import is_remote
from data_prep.durable import canonical_json, encodable, replacing
from data_prep.inspect.audit.measures import Measured
from data_prep.inspect.audit.rules import RULES, SHARED_LETTERS, Rule
from data_prep.inspect.check import CheckOptions, check_all, webdataset_shards
from data_prep.inspect.stats import Breakdown, breakdown
from data_prep.shards.index import INDEX_NAME, ShardIndex
from data_prep.shards.opening import read_index
from data_prep.shards.tar import read_meta
from model.errors import UserError

BARS = 40  # of a histogram
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
EXAMPLES = 20  # of each rule
EXCERPT = 200  # characters of a transcript


@dataclass(frozen=True)
class Spread:
    """A histogram of BARS bars from `low` to `high`; what lies outside is counted in the first and the last."""

    name: str
    unit: str
    low: float
    high: float
    counts: tuple[int, ...]
    quantiles: tuple[float, ...]  # at QUANTILES


@dataclass(frozen=True)
class Example:
    key: str
    value: str  # what was found, as the reader sees it
    text: str  # the transcript, cut at EXCERPT


@dataclass(frozen=True)
class Finding:
    name: str
    group: str  # text, audio, set or overlap
    rule: str
    count: int  # utterances
    judged: int  # utterances that it could be applied to
    examples: tuple[Example, ...]  # the worst, at most EXAMPLES


@dataclass(frozen=True)
class Audit:
    """All that was found; problems apart, in no more space for a million utterances than for a hundred."""

    root: str
    kind: str  # audio or features; "" where the index cannot be read
    utterances: int
    measured: int  # of these, those that could be read
    seconds: float
    shards: int
    bytes: int
    decoded: bool
    webdataset: int  # shards that webdataset read too
    against: tuple[str, ...]
    problems: tuple[str, ...]
    findings: tuple[Finding, ...]  # one a rule that was applied, found something or not
    not_judged: tuple[str, ...]  # rules that could be applied to no utterance
    spreads: tuple[Spread, ...]
    languages: Breakdown
    speakers: Breakdown

    @property
    def raised(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.count)


@dataclass(frozen=True)
class Surveyed:
    """A directory that was checked and measured."""

    root: str  # a path or an address
    index: ShardIndex | None  # None if it cannot be read, then nothing is measured
    problems: list[str]
    measured: Measured

    def key(self, row: int) -> str:
        assert self.index is not None
        return self.index.key[int(self.measured.rows["number"][row])]

    def first_of_each(self, rows: np.ndarray, column: str) -> np.ndarray:
        """Rows, in their order, without those whose value in the column came before; all of them without a column."""
        if not column:
            return rows
        _, first = np.unique(self.measured.rows[column][rows], return_index=True)
        return rows[np.sort(first)]

    def examples(self, rows: np.ndarray, once: str, show: Callable[[int], str]) -> tuple[Example, ...]:
        """Of rows in the order of their badness, one for each value of the column `once`."""
        examples = []
        for row in self.first_of_each(rows, once)[:EXAMPLES].tolist():
            assert self.index is not None
            text = encodable(read_meta(self.index, int(self.measured.rows["number"][row]))["text"])
            cut = text if len(text) <= EXCERPT else f"{text[: EXCERPT - 3]}..."
            examples.append(Example(self.key(row), show(row), cut))
        return tuple(examples)


def audit(
    root: str | os.PathLike[str],
    options: CheckOptions | None = None,
    against: tuple[str, ...] = (),
    flagged: Path | None = None,
) -> Audit:
    """`against`: directories that should share nothing with this one, such as the test sets of a training set.
    `flagged`: file to list all utterances in that rules found, as JSON lines `{judgement, key, value}`.

    UserError only where a directory is none, or is to be held against itself; all else is in what it returns."""
    options, root = options or CheckOptions(), os.fspath(root)
    resolved = {place: place.rstrip("/") if is_remote(place) else os.path.realpath(place) for place in (root, *against)}
    for other in against:
        if resolved[other] == resolved[root]:
            raise UserError(f"--against {other} is the very directory that is checked; give another one")
        if not is_remote(other) and not (Path(other) / INDEX_NAME).exists():
            read_index(other)  # raises now, before an hour's reading
    surveyed, *others = (Surveyed(place, *check_all(place, options)) for place in (root, *against))
    index, measured, rows = surveyed.index, surveyed.measured, surveyed.measured.rows
    applied = [apply(group, rule, surveyed) for group, rules in RULES.items() for rule in rules if index is not None]
    applied += [overlap for other in others for overlap in overlaps(surveyed, other)]
    if flagged is not None:
        with replacing(flagged) as file:
            for finding, found, show in applied:
                for row in found.tolist():
                    line = {"judgement": finding.name, "key": surveyed.key(row), "value": show(row)}
                    file.write(canonical_json(line) + b"\n")
    problems = [*surveyed.problems, *(f"{other.root}: {line}" for other in others for line in other.problems)]
    unread = [f"overlap with {encodable(other.root)}" for other in others if other.index is None]
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
        findings=tuple(finding for finding, *_ in applied if finding.judged),
        not_judged=(*(finding.name for finding, *_ in applied if not finding.judged), *unread),
        spreads=spreads(measured),
        languages=breakdown(rows["language"], rows["seconds"], measured.languages),
        speakers=breakdown(rows["speaker"], rows["seconds"], measured.speakers),
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


class Applied(NamedTuple):
    """A finding, and where it was found."""

    finding: Finding
    flagged: np.ndarray  # int64: rows that were found, in order; of duplicates all but the first, which may stay
    show: Callable[[int], str]  # the value of a row, as the reader sees it


def apply(group: str, rule: Rule, surveyed: Surveyed) -> Applied:
    score = rule.score(surveyed.measured)
    with np.errstate(invalid="ignore"):
        raised = np.flatnonzero(score < rule.limit if rule.below else score > rule.limit)
    worst = raised[np.argsort(score[raised] if rule.below else -score[raised], kind="stable")]

    def show(row: int) -> str:
        who = surveyed.measured.speakers[surveyed.measured.rows["speaker"][row]] if rule.once == "speaker" else ""
        return (f"{encodable(who)}, " if who else "") + rule.show(float(score[row]))

    examples = surveyed.examples(worst, rule.once, show)
    judged = int(np.count_nonzero(~np.isnan(score)))
    flagged = np.setdiff1d(raised, surveyed.first_of_each(raised, rule.once)) if rule.keeps_first else raised
    finding = Finding(rule.name, group, rule.text.format(rule.limit), len(raised), judged, examples)
    return Applied(finding, flagged, show)


def overlaps(surveyed: Surveyed, other: Surveyed) -> list[Applied]:
    """Words, recordings and speakers that a set shares with another; nothing where an index cannot be read."""
    index, there = surveyed.index, other.index
    if index is None or there is None:
        return []
    rows, theirs = surveyed.measured.rows, other.measured.rows
    alike = index.kind == there.kind and (index.kind == "audio" or index.fingerprint == there.fingerprint)
    decoded = (rows["audio_hash"] != 0) & alike & bool(len(theirs) and theirs["audio_hash"].any())
    names = np.array(surveyed.measured.speakers or [""], object)[rows["speaker"]]
    numbers = {name: number for number, name in enumerate(other.measured.speakers)}
    speakers = np.array([numbers.get(name, -1) if name else -1 for name in names], np.int64)
    same_words = f"the same words as an utterance there, {SHARED_LETTERS} letters or more"
    same_samples = "the same samples as an utterance there, all of them"
    named, same_speaker = (names != "") & any(other.measured.speakers), "a speaker of the same name speaks there"
    table = (  # what, rule, column, the values here, which of them are judged
        ("text", same_words, "text_hash", rows["text_hash"], rows["letters"] >= SHARED_LETTERS),
        ("audio", same_samples, "audio_hash", rows["audio_hash"], decoded),
        ("speaker", same_speaker, "speaker", speakers, named),
    )
    applied = []
    for what, rule, column, values, judged in table:
        known, first = np.unique(theirs[column], return_index=True)
        places = np.searchsorted(known, values).clip(max=max(len(known) - 1, 0))
        raised = np.flatnonzero(judged & (known[places] == values)) if len(known) else np.zeros(0, np.int64)
        twins = dict(zip(raised.tolist(), first[places[raised]].tolist(), strict=True))

        def show(row: int, twins: dict[int, int] = twins) -> str:
            return f"{other.key(twins[row])} there"

        name, examples = f"overlap-{what} with {encodable(other.root)}", surveyed.examples(raised, column, show)
        finding = Finding(name, "overlap", rule, len(raised), int(judged.sum()), examples)
        applied.append(Applied(finding, raised, show))
    return applied
