"""Compares two systems on the same utterances: A, the scoring that the page reports, and B, the other."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decode.report.display import is_number, percent, share, signed, span, value, visible
from decode.report.words import Aligned, align

MOST_PAIRS = 10  # shown of each kind
BESIDE = {"wer", "difference", "interval"}  # fields of score["against"] that are shown beside the WERs


@dataclass(frozen=True)
class Pair:
    """One utterance, decoded by both systems."""

    a: Aligned
    b: Aligned

    @property
    def gain(self) -> int:
        """B's errors minus A's."""
        return self.b.errors - self.a.errors


@dataclass(frozen=True)
class Kind:
    """Utterances of one kind: `count` in all, and those that differ most."""

    title: str
    count: int
    pairs: Sequence[Pair]


@dataclass(frozen=True)
class Comparison:
    """The content of the section on two systems."""

    a: str
    b: str
    a_wer: str
    b_wer: str
    a_interval: str
    b_interval: str
    difference: str  # A minus B, in percentage points
    relative: str  # to B's WER, in per cent
    difference_interval: str
    significance: Sequence[tuple[str, str]]
    right: Sequence[Sequence[int]]  # numbers of utterances, [A right, A wrong][B right, B wrong]
    kinds: Sequence[Kind]
    remarks: Sequence[str]


def compare(
    ours: Sequence[Aligned], score: Mapping[str, Any], rows: Sequence[dict[str, Any]], other: Mapping[str, Any]
) -> Comparison:
    """Compares A's utterances with B's `rows` of the same keys, under A's normaliser. UserError as `align`."""
    theirs = {one.row["key"]: one for one in align(rows, str(score["normaliser"]))}
    pairs = [Pair(one, theirs[one.row["key"]]) for one in ours if one.row["key"] in theirs]
    outcomes = Counter((not pair.a.errors, not pair.b.errors) for pair in pairs)
    a_all, b_all, against = score.get("all") or {}, other.get("all") or {}, score.get("against") or {}
    a_wer, b_wer = a_all.get("wer"), b_all.get("wer")
    difference = a_wer - b_wer if is_number(a_wer) and is_number(b_wer) else None
    return Comparison(
        a=name_of(score),
        b=name_of(other),
        a_wer=percent(a_wer),
        b_wer=percent(b_wer),
        a_interval=span(a_all.get("interval")),
        b_interval=span(b_all.get("interval")),
        difference=signed(difference),
        relative=signed(difference / b_wer) if difference is not None and b_wer else "",
        difference_interval=span(against.get("interval")),
        significance=_significance(against),
        right=[[outcomes[a, b] for b in (True, False)] for a in (True, False)],
        kinds=_kinds(pairs),
        remarks=_remarks(ours, theirs, pairs, score, other),
    )


def name_of(score: Mapping[str, Any]) -> str:
    """What was scored, in a few words: adapter and step, or the file of hypotheses."""
    name = visible(str(score.get("adapter") or score.get("hypotheses") or "hypotheses"), 120)
    return f"{name}, step {score['step']:,}" if is_number(score.get("step")) else name


def _kinds(pairs: Sequence[Pair]) -> list[Kind]:
    """The kinds of utterances in which A and B differ; first those that one of them got right."""
    won = sorted((p for p in pairs if p.gain > 0), key=lambda p: (-p.gain, p.a.row["key"]))
    lost = sorted((p for p in pairs if p.gain < 0), key=lambda p: (p.gain, p.a.row["key"]))
    named = [
        ("A right, B wrong", [p for p in won if not p.a.errors]),
        ("B right, A wrong", [p for p in lost if not p.b.errors]),
        ("both wrong, A better", [p for p in won if p.a.errors]),
        ("both wrong, A worse", [p for p in lost if p.b.errors]),
    ]
    return [Kind(title, len(of), of[:MOST_PAIRS]) for title, of in named if of]


def _significance(against: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The names and values in score["against"] that are not shown beside the WERs."""
    facts = [(name, fact) for name, fact in against.items() if name not in BESIDE and not isinstance(fact, dict)]
    return [(visible(name.replace("_", " ")), value(fact)) for name, fact in facts]


def _remarks(
    ours: Sequence[Aligned],
    theirs: Mapping[str, Aligned],
    pairs: Sequence[Pair],
    score: Mapping[str, Any],
    other: Mapping[str, Any],
) -> list[str]:
    """Sentences on what limits the comparison."""
    remarks = []
    if len(pairs) < max(len(ours), len(theirs)):
        missing = f"utterances only in A: {len(ours) - len(pairs):,}, only in B: {len(theirs) - len(pairs):,}"
        remarks.append(f"{missing}; the rest are compared below, but each WER is over all utterances of its system")
    if differing := sum(_reference(p.a) != _reference(p.b) for p in pairs):
        remarks.append(f"{differing:,} references differ ({share(differing, len(pairs))} %)")
    if score.get("normaliser") != other.get("normaliser"):
        remarks.append(
            f"B was scored with the normaliser {value(other.get('normaliser'))}; below, both are scored with A's"
        )
    return remarks


def _reference(one: Aligned) -> list[str]:
    return [old for old, _ in one.pairs if old]
