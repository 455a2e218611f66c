"""The tables from score.json: what was scored, rates of faults, and error rates by group with intervals as bars.

Fields missing from score.json are left out, and fields without a label here are shown under their own name."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decode.report.display import ABSENT, is_number, number, percent, share, signed, span, value, visible

MOST_GROUPS = 200  # listed per field
FIRST_GROUPS = 12  # shown before unfolding
LABELS = {
    "weights_sha256": "adapter's sha256",
    "shards_digest": "digest of the shards",
    "max_new_tokens": "maximum new tokens",
    "nbest": "n-best",
}
NOT_FACTS = {"all", "by", "group", "rates", "notes", "normalisers", "against"}
RATES = {  # score["rates"]: {name: (label, name of the whole)}
    "loops": ("looping hypotheses", "utterances"),
    "hallucinated_utterances": ("hallucinations: silent utterances with words", "silent_utterances"),
    "hallucinated_words": ("hallucinated words", ""),
    "deletion_bursts": ("utterances with a deletion burst", "utterances"),
}
NOTES = {
    "cut": "answers truncated at the token limit",
    "loop": "decoded again: the first answer looped",
    "echo": "decoded again: the first answer echoed the prompt",
    "refusal": "decoded again: the first answer was a refusal",
    "nan": "left empty: the LLM computed NaN",
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
    """A rate and its interval, in per cent of the bar's width; `beyond` and `open` if they end outside it."""

    to: float
    low: float | None
    high: float | None
    beyond: bool  # the rate
    open: bool  # the interval
    mark: float | None  # the overall rate


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
    other_wer: str
    change: str


@dataclass(frozen=True)
class Table:
    """Rows of error rates: the first `shown` are visible, the others unfold; `left_out` more are in score.json."""

    field: str
    rows: list[Row]
    shown: int = FIRST_GROUPS
    left_out: int = 0
    compared: bool = False


def facts(score: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of the fields of score.json other than error counts."""
    given = {name: fact for name, fact in score.items() if name not in NOT_FACTS and fact not in (None, {}, [])}
    return [(LABELS.get(name, visible(name.replace("_", " "))), value(fact)) for name, fact in given.items()]


def rates(score: Mapping[str, Any]) -> list[Rate]:
    """The rows for score["rates"] and score["notes"]."""
    given = dict(score.get("rates") or {})
    burst = given.pop("deletion_burst_words", None)
    wholes = {"silent_utterances": given.pop("silent_utterances", None)}
    wholes["utterances"] = (score.get("all") or {}).get("utterances")
    rows = []
    for name, times in given.items():
        label, of = RATES.get(name, (visible(name.replace("_", " ")), ""))
        label += f" of {burst} words or more" if name == "deletion_bursts" and is_number(burst) else ""
        whole = wholes.get(of)
        rows.append(Rate(label, value(times), number(whole) if of else "", share(times, whole) if of else ""))
    utterances = wholes["utterances"]
    for note, times in (score.get("notes") or {}).items():
        label = NOTES.get(note, visible(str(note).replace("-", " ")))
        rows.append(Rate(label, value(times), number(utterances), share(times, utterances)))
    return rows


def groups(score: Mapping[str, Any], other: Mapping[str, Any] | None) -> list[Table]:
    """A table for each field of score["by"], with another system's WER if there is one."""
    overall = (score.get("all") or {}).get("wer")
    tables = []
    for field, by in (score.get("by") or {}).items():
        others = None if other is None else (other.get("by") or {}).get(field) or {}
        items = sorted(by.items(), key=_shortest_first if field == "duration" else _worst_first)
        tables.append(_table(visible(field), items, others, overall))
    return [table for table in tables if table.rows]


def normalisers(score: Mapping[str, Any], other: Mapping[str, Any] | None) -> Table | None:
    """The same hypotheses under each normaliser, the main one first; None for one alone."""
    items = sorted((score.get("normalisers") or {}).items(), key=lambda item: item[0] != score["normaliser"])
    others = None if other is None else other.get("normalisers") or {}
    return _table("normaliser", items, others, (score.get("all") or {}).get("wer")) if len(items) > 1 else None


def _worst_first(item: tuple[str, Mapping[str, Any]]) -> tuple[float, str]:
    name, one = item
    return -one["wer"] if is_number(one.get("wer")) else math.inf, name


def _shortest_first(item: tuple[str, Mapping[str, Any]]) -> float:
    number = re.match(r"[\d.]+", item[0])
    return float(number[0]) if number else math.inf


def _table(
    field: str, items: Sequence[tuple[str, Mapping[str, Any]]], others: Mapping[str, Any] | None, overall: Any
) -> Table:
    """`items` are names and their scores in score.json, `others` those of the second system by name."""
    scale = _scale([one for _, one in items], overall)
    kept = items[:MOST_GROUPS]
    rows = [_row(name, one, (others or {}).get(name), scale, overall) for name, one in kept]
    return Table(field, rows, left_out=len(items) - len(kept), compared=others is not None)


def _scale(scores: Sequence[Mapping[str, Any]], overall: Any) -> float:
    """The WER at the right end of the bars: the highest upper limit, but at most 100 % or twice the overall WER."""
    ends = [(one.get("interval") or (0, 0))[1] for one in scores] + [one.get("wer") for one in scores]
    most = max(1.0, 2 * overall if is_number(overall) else 0.0)
    return min(most, max((end for end in ends if is_number(end)), default=0.0)) or 1.0


def _row(group: str, one: Mapping[str, Any], other: Any, scale: float, overall: Any) -> Row:
    wer, was = one.get("wer"), other.get("wer") if isinstance(other, dict) else None
    return Row(
        name=visible(str(group)) or "(none)",
        utterances=number(one.get("utterances")),
        words=number(one.get("words")),
        wer=percent(wer),
        interval=span(one.get("interval")),
        bar=bar(wer, one.get("interval"), scale, overall),
        substitutions=number(one.get("substitutions")),
        deletions=number(one.get("deletions")),
        insertions=number(one.get("insertions")),
        cer=percent(one.get("cer")),
        other_wer=percent(was),
        change=signed(wer - was) if is_number(wer) and is_number(was) else ABSENT,
    )


def bar(wer: Any, interval: Any, scale: float, overall: Any = None) -> Bar | None:
    """The bar of a WER; None if it is not known."""
    if not is_number(wer):
        return None

    def place(rate: Any) -> float | None:
        return round(100 * min(1.0, max(0.0, rate / scale)), 1) if is_number(rate) else None

    low, high = interval if span(interval) != ABSENT else (None, None)
    return Bar(
        place(wer) or 0.0, place(low), place(high), wer > scale, high is not None and high > scale, place(overall)
    )
