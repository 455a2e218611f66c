"""The tables of score.json: what was scored, its rates, and error rates by group with intervals as small bars.

score.json may have more or less than is known here: what it lacks is left out, and a fact without a name of ours is
shown under its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decode.report.display import ABSENT, is_number, number, percent, share, signed, span, value, visible

MOST_GROUPS = 200  # of one field that are listed
FIRST_GROUPS = 12  # of them without unfolding
LABELS = {
    "weights_sha256": "adapter's sha256",
    "shards_digest": "digest of the shards",
    "max_new_tokens": "most new tokens",
    "nbest": "n-best",
}
NOT_FACTS = {"all", "by", "group", "rates", "notes", "normalisers", "against"}
RATES = {  # of score["rates"]: name: (what is counted, the name of what it is a part of)
    "loops": ("utterances that loop", "utterances"),
    "hallucinated_utterances": ("silent utterances with words", "silent_utterances"),
    "hallucinated_words": ("words written on silence", ""),
    "deletion_bursts": ("utterances with a deletion burst", "utterances"),
}
NOTES = {
    "cut": "answers cut at the bound on tokens",
    "loop": "decoded again: the first answer looped",
    "echo": "decoded again: the first answer echoed the prompt",
    "refusal": "decoded again: the first answer was a refusal",
    "too-short": "too short to transcribe, scored as empty",
    "too-long": "too long to transcribe, scored as empty",
}


@dataclass(frozen=True)
class Rate:
    """How often something happened."""

    name: str
    times: str
    of: str
    percent: str


@dataclass(frozen=True)
class Bar:
    """A rate and its interval in parts of a hundred of the bar's width; `beyond` and `open` if they end outside."""

    to: float
    low: float | None
    high: float | None
    beyond: bool  # the rate
    open: bool  # the interval
    mark: float | None  # the rate of all


@dataclass(frozen=True)
class Row:
    """Error rates of one group, or of everything under one normaliser."""

    name: str
    utterances: str
    words: str
    wer: str
    interval: str
    bar: Bar | None
    substitutions: str
    deletions: str
    insertions: str
    cer: str
    other_wer: str = ""
    change: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of error rates; the first `shown` are in sight, the others unfold; `left_out` more are in score.json."""

    name: str
    field: str
    rows: list[Row]
    shown: int = FIRST_GROUPS
    left_out: int = 0
    compared: bool = False


def facts(score: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of what score.json says beside its error counts."""
    given = {name: fact for name, fact in score.items() if name not in NOT_FACTS and fact not in (None, {}, [])}
    return [(LABELS.get(name, visible(name.replace("_", " "))), value(fact)) for name, fact in given.items()]


def rates(score: Mapping[str, Any]) -> list[Rate]:
    """score["rates"] and the numbers of notes."""
    given = dict(score.get("rates") or {})
    wholes = given | {"utterances": (score.get("all") or {}).get("utterances")}
    rows = []
    burst = f", {given['deletion_burst_words']} words or more" if is_number(given.get("deletion_burst_words")) else ""
    for name, times in given.items():
        if name in ("silent_utterances", "deletion_burst_words"):  # what others are counted of
            continue
        label, of = RATES.get(name, (visible(name.replace("_", " ")), ""))
        label += burst if name == "deletion_bursts" else ""
        whole = wholes.get(of)
        rows.append(Rate(label, value(times), number(whole) if of else "", share(times, whole) if of else ""))
    utterances = wholes["utterances"]
    for note, times in (score.get("notes") or {}).items():
        label = NOTES.get(note, visible(str(note).replace("-", " ")))
        rows.append(Rate(label, value(times), number(utterances), share(times, utterances)))
    return rows


def groups(score: Mapping[str, Any], other: Mapping[str, Any] | None) -> list[Table]:
    """A table for each field of score["by"], the groups with the highest WER first, durations in their order."""
    others = (other or {}).get("by") or {}
    return [
        _table(visible(name), by, score, others.get(name) or {}, name != "duration", other is not None)
        for name, by in (score.get("by") or {}).items()
        if isinstance(by, dict) and by
    ]


def normalisers(score: Mapping[str, Any], other: Mapping[str, Any] | None) -> Table | None:
    """The same hypotheses under each normaliser; None for one alone."""
    by, others = score.get("normalisers") or {}, (other or {}).get("normalisers") or {}
    if len(by) < 2:
        return None
    return _table("normaliser", by, {}, others, False, other is not None)


def _table(
    field: str, by: Mapping[str, Any], score: Mapping[str, Any], others: Mapping[str, Any], worst_first: bool, two: bool
) -> Table:
    """`by` is {group: its Score and interval}."""
    items = [(group, one) for group, one in by.items() if isinstance(one, dict)]
    if worst_first:
        items.sort(key=lambda item: item[1]["wer"] if is_number(item[1].get("wer")) else -1.0, reverse=True)
    overall = (score.get("all") or {}).get("wer")
    scale = _scale([one for _, one in items], overall)
    kept = items[:MOST_GROUPS]
    rows = [_row(group, one, others.get(group) if two else None, scale, overall) for group, one in kept]
    return Table(f"WER by {field}", field, rows, left_out=len(items) - len(kept), compared=two)


def _scale(scores: Sequence[Mapping[str, Any]], overall: Any) -> float:
    """The WER at the right end of the bars: the highest end of an interval, but at most 100 % or twice the overall."""
    ends = [(one.get("interval") or (0, 0))[1] for one in scores] + [one.get("wer") for one in scores]
    most = max(1.0, 2 * overall if is_number(overall) else 0.0)
    return min(most, max((end for end in ends if is_number(end)), default=0.0)) or 1.0


def _row(group: str, one: Mapping[str, Any], other: Any, scale: float, overall: Any) -> Row:
    wer, was = one.get("wer"), other.get("wer") if isinstance(other, dict) else None
    counts = [number(one.get(n)) for n in ("substitutions", "deletions", "insertions")]
    return Row(
        *(visible(str(group)) or "(none)", number(one.get("utterances")), number(one.get("words"))),
        *(percent(wer), span(one.get("interval")), bar(wer, one.get("interval"), scale, overall), *counts),
        percent(one.get("cer")),
        percent(was),
        signed(wer - was) if is_number(wer) and is_number(was) else ABSENT,
    )


def bar(wer: Any, interval: Any, scale: float, overall: Any = None) -> Bar | None:
    """None for a rate that is not known."""
    if not is_number(wer):
        return None

    def place(rate: Any) -> float | None:
        return round(100 * min(1.0, max(0.0, rate / scale)), 1) if is_number(rate) else None

    low, high = interval if span(interval) != ABSENT else (None, None)
    return Bar(
        place(wer) or 0.0, place(low), place(high), wer > scale, high is not None and high > scale, place(overall)
    )
