"""Rules applied to what was measured: how many utterances each found, and the worst of them; what two sets share."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.durable import canonical_json, encodable, replacing
from data_prep.inspect.audit.measures import Measured
from data_prep.inspect.audit.rules import SHARED_LETTERS, Rule
from data_prep.shards.index import ShardIndex
from data_prep.shards.tar import read_meta

EXAMPLES = 20  # of each rule
EXCERPT = 200  # characters of a transcript


@dataclass(frozen=True)
class Example:
    """One of the worst."""

    key: str
    value: str
    """What was found, as the reader sees it."""
    text: str
    """The transcript, cut at EXCERPT."""


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


@dataclass(frozen=True)
class Finding:
    """What one rule found."""

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


def apply(group: str, rule: Rule, surveyed: Surveyed) -> Applied:
    """One rule on all rows."""
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
    return Applied(
        Finding(rule.name, group, rule.text.format(rule.limit), len(raised), judged, examples), flagged, show
    )


def overlaps(surveyed: Surveyed, other: Surveyed) -> list[Applied]:
    """Words, recordings and speakers that a set shares with another; nothing where an index cannot be read."""
    index, there = surveyed.index, other.index
    if index is None or there is None:
        return []
    rows, theirs = surveyed.measured.rows, other.measured.rows
    alike = index.kind == there.kind and (index.kind == "audio" or index.fingerprint == there.fingerprint)
    long = rows["letters"] >= SHARED_LETTERS
    decoded = (rows["audio_hash"] != 0) & alike & bool(len(theirs) and theirs["audio_hash"].any())
    names = np.array(surveyed.measured.speakers or [""], object)[rows["speaker"]]
    numbers = {name: number for number, name in enumerate(other.measured.speakers)}
    speakers = np.array([numbers.get(name, -1) if name else -1 for name in names], np.int64)
    named = (names != "") & any(other.measured.speakers)
    same_words = f"the same words as an utterance there, {SHARED_LETTERS} letters or more"
    same_samples = "the same samples as an utterance there, all of them"
    table = (  # name, rule, column, the values here, which of them are judged
        ("overlap-text", same_words, "text_hash", rows["text_hash"], long),
        ("overlap-audio", same_samples, "audio_hash", rows["audio_hash"], decoded),
        ("overlap-speaker", "a speaker of the same name speaks there", "speaker", speakers, named),
    )
    return [_overlap(*line, surveyed, other) for line in table]


def _overlap(
    name: str, rule: str, column: str, mine: np.ndarray, judged: np.ndarray, surveyed: Surveyed, other: Surveyed
) -> Applied:
    theirs, first = np.unique(other.measured.rows[column], return_index=True)
    places = np.minimum(np.searchsorted(theirs, mine), len(theirs) - 1)
    raised = np.flatnonzero(judged & (theirs[places] == mine)) if len(theirs) else np.zeros(0, np.int64)
    twins = first[places] if len(theirs) else places

    def show(row: int) -> str:
        return f"{other.key(int(twins[row]))} there"

    label, examples = f"{name} with {encodable(other.root)}", surveyed.examples(raised, column, show)
    return Applied(Finding(label, "overlap", rule, len(raised), int(judged.sum()), examples), raised, show)


def write_flagged(path: Path, applied: Iterable[Applied], surveyed: Surveyed) -> None:
    """One JSON object a line, `{judgement, key, value}`, for each utterance that each rule found."""
    with replacing(path) as file:
        for one in applied:
            for row in one.flagged.tolist():
                line = {"judgement": one.finding.name, "key": surveyed.key(row), "value": one.show(row)}
                file.write(canonical_json(line) + b"\n")
