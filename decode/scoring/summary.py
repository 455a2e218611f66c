"""A complete scoring: every utterance under every normaliser, totals, groups, flags and rates."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from decode.scoring.counts import ALIGNER, Score, by_group, score_each
from decode.scoring.intervals import Difference, Units, compare, interval, units_of
from decode.scoring.rates import flags_of, rates
from decode.scoring.reading import Row, require_same_keys
from model.errors import UserError, hint

DURATION = "duration"
DURATION_EDGES = (0, 2, 5, 10, 15, 20, 30)  # seconds at which groups start
NO_VALUE = "(none)"


@dataclass(frozen=True)
class Rate:
    """The score of a group, and the 95 % interval of its WER."""

    score: Score
    interval: list[float] | None  # fractions; None if the group is too small

    def as_json(self) -> dict[str, Any]:
        return self.score.as_json() | {"interval": self.interval}


@dataclass(frozen=True)
class Summary:
    """The result of a scoring. Groups, flags and rates are under the first normaliser."""

    rows: Sequence[Row]
    scores: Mapping[str, Sequence[Score]]  # {normaliser: one per utterance}
    totals: Mapping[str, Rate]  # {normaliser: all utterances}
    by: Mapping[str, Mapping[str, Rate]]  # {field: {value: utterances with it}}
    flags: Sequence[list[str]]  # one list per utterance
    rates: Mapping[str, Any]
    units: Units
    notes: Mapping[str, Sequence[str]]  # {note: keys}

    @property
    def normaliser(self) -> str:
        return next(iter(self.scores))

    def as_json(self) -> dict[str, Any]:
        """The content of score.json, without the origin of the texts."""
        return {
            "normaliser": self.normaliser,
            "normalisers": {name: rate.as_json() for name, rate in self.totals.items()},
            "all": self.totals[self.normaliser].as_json(),
            "by": {field: {value: rate.as_json() for value, rate in each.items()} for field, each in self.by.items()},
            "aligner": ALIGNER,
            "bootstrap": self.units.as_json(),
            "rates": dict(self.rates),
            "notes": {note: len(keys) for note, keys in self.notes.items()},
        }


def summarise(rows: Sequence[Row], normalisers: Sequence[str], fields: Sequence[str] = ()) -> Summary:
    """Scores at least one row under at least one normaliser. UserError for a field that no row has."""
    grouped = {field: groups(field, rows) for field in fields}
    references, hypotheses = [row.reference for row in rows], [row.hypothesis for row in rows]
    scores = {name: score_each(references, hypotheses, name) for name in normalisers}
    first = normalisers[0]
    flags = [flags_of(row, score, first) for row, score in zip(rows, scores[first], strict=True)]
    units = units_of(speakers(rows), scores[first])
    totals = {name: Rate(sum(each, Score()), interval(each, units)) for name, each in scores.items()}
    by = {field: _rates(values, rows, scores[first]) for field, values in grouped.items()}
    counted = Counter(row.note for row in rows if row.note)
    notes = {note: [row.key for row in rows if row.note == note] for note in sorted(counted)}
    return Summary(rows, scores, totals, by, flags, rates(rows, scores[first], flags), units, notes)


def speakers(rows: Sequence[Row]) -> list[str]:
    return [row.value("speaker") for row in rows]


def groups(field: str, rows: Sequence[Row]) -> list[str]:
    """The value of a field for each utterance; for "duration", its range of seconds."""
    values = [_duration(row.seconds) if field == DURATION else row.value(field) for row in rows]
    if not any(values):
        known = {name for row in rows for name, value in row.fields.items() if value and not isinstance(value, dict)}
        known = sorted(known | ({DURATION} if any(row.seconds is not None for row in rows) else set()))
        raise UserError(f"no utterance has a field {field!r}{hint(field, known)}; known: {', '.join(known) or 'none'}")
    return [value or NO_VALUE for value in values]


def matched(rows: Sequence[Row], others: Sequence[Row], here: str, there: str) -> list[Row]:
    """Another system's rows in the order of `rows`, with the metadata of these. UserError unless both have the same
    utterances with the same references."""
    by_key = {row.key: row for row in others}
    require_same_keys([row.key for row in rows], by_key, here, there)
    found = []
    for row in rows:
        other = by_key[row.key]
        if row.reference != other.reference:
            values = f"{row.reference[:40]!r} and {other.reference[:40]!r}"
            raise UserError(f"{here} and {there} have different references of {row.key}: {values}; score the same data")
        found.append(replace(other, seconds=row.seconds, fields=row.fields))
    return found


def against(summary: Summary, other: Summary) -> dict[str, Difference]:
    """{normaliser: difference to another system's summary of the same utterances}, except without reference words."""
    differences = {name: compare(scores, other.scores[name], summary.units) for name, scores in summary.scores.items()}
    return {name: difference for name, difference in differences.items() if difference is not None}


def _rates(values: Sequence[str], rows: Sequence[Row], scores: Sequence[Score]) -> dict[str, Rate]:
    named, places = speakers(rows), dict[str, list[int]]()
    for i, value in enumerate(values):
        places.setdefault(value, []).append(i)
    rates = {}
    for value, score in by_group(values, scores).items():
        own = [scores[i] for i in places[value]]
        rates[value] = Rate(score, interval(own, units_of([named[i] for i in places[value]], own)))
    return rates


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    after = [edge for edge in DURATION_EDGES if edge <= seconds]
    if len(after) == len(DURATION_EDGES):
        return f"{after[-1]} s or more"
    return f"{after[-1]} to {DURATION_EDGES[len(after)]} s"
