"""A scoring as text for a terminal."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from data_prep import figures
from data_prep.text import printable
from decode.scoring.intervals import MIN_SPEAKERS, Difference, Units
from decode.scoring.summary import Rate, Summary
from model.errors import counted


def report(summary: Summary, decoding: Mapping[str, Any] | None, differences: Mapping[str, Difference]) -> str:
    """Tables by group and by normaliser, rates of faults and speed, and how the intervals were made."""
    first = summary.normaliser
    total = summary.totals[first]
    blocks = [table([*each.items(), ("all", total)], field) for field, each in summary.by.items()]
    if len(summary.totals) > 1:
        blocks.append(table(summary.totals.items(), "normaliser"))
    elif not blocks:
        blocks.append(table([("all", total)]))
    lines = [f"normaliser {first}; {_drawn(summary.units)}"]
    lines += [_against(name, difference, len(differences) > 1) for name, difference in differences.items()]
    return "\n\n".join([*blocks, _wrong(summary, decoding), "\n".join(lines)])


def table(rows: Iterable[tuple[str, Rate]], heading: str = "") -> str:
    """Lines of aligned text, one per row, rates in per cent."""

    def cells(name: str, rate: Rate) -> list[object]:
        s = rate.score
        return [
            printable(name),
            *(s.utterances, s.words, _wer(rate), s.substitutions, s.deletions, s.insertions),
            _percent(s.cer),
        ]

    head = (heading, "utterances", "words", "WER % [95 %]", "sub", "del", "ins", "CER %")
    return "\n".join(figures.table([cells(*row) for row in rows], head))


def _wer(rate: Rate) -> str:
    return _percent(rate.score.wer) + (f" {_between(rate.interval)}" if rate.interval else "")


def _between(interval: list[float]) -> str:
    return f"[{_percent(interval[0])}, {_percent(interval[1])}]"


def _percent(rate: float) -> str:
    return "-" if math.isnan(rate) else f"{100 * rate:.2f}"


def _drawn(units: Units) -> str:
    how = (
        f"95 % intervals from {units.as_json()['draws']:,} draws of {counted(units.number - units.silent, units.kind)}"
    )
    how += f" and {counted(units.silent, 'silent utterance')}" if units.silent else ""
    if units.kind == "utterance":
        return f"{how} (fewer than {MIN_SPEAKERS} speakers, or some unknown)"
    return f"{how}; groups of fewer than {MIN_SPEAKERS} speakers by utterance"


def _against(name: str, d: Difference, several: bool) -> str:
    where = f"against {_percent(d.wer)} %" + (f" under {name}" if several else "")
    between = f" {_between(d.interval)}" if d.interval else ""
    return f"{where}: difference {100 * d.difference:+.2f}{between}, p = {d.p:.2g} ({d.test})"


def _wrong(summary: Summary, decoding: Mapping[str, Any] | None) -> str:
    """Loops, deletion bursts, hallucinations and speed, one line each."""
    r, number = summary.rates, len(summary.rows)
    rows = [("loops", _share(r["loops"], number)), ("deletion bursts", _share(r["deletion_bursts"], number))]
    if silent := r["silent_utterances"]:
        share = f"{r['hallucinated_utterances']:,} of {counted(silent, 'silent utterance')}"
        rows.append(("hallucinations", f"{share}, {counted(r['hallucinated_words'], 'word')}"))
    if isinstance(rtfx := (decoding or {}).get("rtfx"), int | float):
        rows.append(("speed", f"{rtfx:,.1f} times real time (RTFx)"))
    return "\n".join(figures.table(rows, left=(0, 1)))


def _share(number: int, of: int) -> str:
    return f"{number:,} of {counted(of, 'utterance')} ({100 * number / of:.2f} %)"
