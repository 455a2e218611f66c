"""Rules applied to what was measured: how many utterances each found, and the worst of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.durable import canonical_json, encodable, replacing
from data_prep.inspect.audit.measures import Measured
from data_prep.inspect.audit.overlap import Overlap
from data_prep.inspect.audit.rules import Judgement
from data_prep.shards.index import ShardIndex
from data_prep.shards.tar import read_meta

EXAMPLES = 20  # of each judgement
EXCERPT = 200  # characters of a transcript


@dataclass(frozen=True)
class Surveyed:
    """A directory that was checked and measured."""

    root: str
    """A path or an address."""
    problems: list[str]
    index: ShardIndex | None
    """None for one that cannot be read; then nothing is measured."""
    measured: Measured

    def key(self, row: int) -> str:
        assert self.index is not None
        return self.index.key[int(self.measured.rows["number"][row])]


@dataclass(frozen=True)
class Example:
    """One of the worst."""

    key: str
    value: str
    """What was found, as the reader sees it."""
    text: str
    """The transcript, cut at EXCERPT."""


@dataclass(frozen=True)
class Finding:
    """What one judgement found."""

    name: str
    group: str
    """text, audio, set or overlap."""
    rule: str
    count: int
    """Utterances."""
    judged: int
    """Utterances that it could be applied to."""
    examples: tuple[Example, ...]
    """The worst, at most EXAMPLES."""


@dataclass(frozen=True)
class Applied:
    """A finding, and where it was found."""

    finding: Finding
    flagged: np.ndarray
    """int64: rows that were found, in order; of duplicates all but the first, which may stay."""
    show: Callable[[int], str]
    """The value of a row, as the reader sees it."""


def apply(name: str, group: str, judgement: Judgement, surveyed: Surveyed) -> Applied:
    """One judgement on all rows."""
    score = judgement.score(surveyed.measured)
    with np.errstate(invalid="ignore"):
        found = np.flatnonzero(score < judgement.limit if judgement.below else score > judgement.limit)
    worst = found[np.argsort(score[found] if judgement.below else -score[found], kind="stable")]

    def show(row: int) -> str:
        who = surveyed.measured.speakers[surveyed.measured.rows["speaker"][row]] if judgement.once == "speaker" else ""
        return (f"{encodable(who)}, " if who else "") + judgement.show(float(score[row]))

    examples = _examples(_first_of_each(worst, judgement.once, surveyed), show, surveyed)
    judged = int(np.count_nonzero(~np.isnan(score)))
    flagged = np.setdiff1d(found, _first_of_each(found, judgement.once, surveyed)) if judgement.keeps_first else found
    return Applied(Finding(name, group, judgement.rule, len(found), judged, examples), flagged, show)


def apply_overlap(name: str, overlap: Overlap, surveyed: Surveyed, other: Surveyed) -> Applied:
    """What one set shares with another."""
    found = np.flatnonzero(overlap.twin >= 0)

    def show(row: int) -> str:
        return f"{other.key(int(overlap.twin[row]))} there"

    examples = _examples(_first_of_each(found, overlap.once, surveyed), show, surveyed)
    label = f"{name} with {encodable(other.root)}"
    return Applied(Finding(label, "overlap", overlap.rule, len(found), overlap.judged, examples), found, show)


def write_flagged(path: Path, applied: Iterable[Applied], surveyed: Surveyed) -> None:
    """One JSON object a line, `{judgement, key, value}`, for each utterance that each judgement found."""
    with replacing(path) as file:
        for one in applied:
            for row in one.flagged.tolist():
                line = {"judgement": one.finding.name, "key": surveyed.key(row), "value": one.show(row)}
                file.write(canonical_json(line) + b"\n")


def _first_of_each(rows: np.ndarray, column: str, surveyed: Surveyed) -> np.ndarray:
    """Rows, in their order, without those whose value in the column came before; all of them without a column."""
    if not column:
        return rows
    _, first = np.unique(surveyed.measured.rows[column][rows], return_index=True)
    return rows[np.sort(first)]


def _examples(rows: np.ndarray, show: Callable[[int], str], surveyed: Surveyed) -> tuple[Example, ...]:
    examples = []
    for row in rows[:EXAMPLES].tolist():
        assert surveyed.index is not None
        text = encodable(read_meta(surveyed.index, int(surveyed.measured.rows["number"][row]))["text"])
        cut = text if len(text) <= EXCERPT else f"{text[: EXCERPT - 3]}..."
        examples.append(Example(surveyed.key(row), show(row), cut))
    return tuple(examples)
