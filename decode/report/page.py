"""Renders a scoring as one HTML file that needs no network and no JavaScript.

1. words.py aligns the utterances and counts confusions; compare.py compares them with those of a second system.
2. tables.py and charts.py turn score.json, rows and a run's metrics into tables and charts.
3. report.html renders them. Jinja escapes all text; the one exception is `words.marked`, which escapes each word
   itself. The page's Content-Security-Policy forbids scripts, and every address except data:.

The length of every list is limited, and so is the file: below 5 MB for any number of utterances, without audio."""

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from decode.report import tables
from decode.report.charts import curves_of, wer_against
from decode.report.compare import compare, name_of
from decode.report.display import ABSENT, is_number, number, percent, share, span, visible
from decode.report.words import Aligned, align, confusions, marked
from model.errors import counted

WORST, WORST_FLAGGED = 20, 8  # utterances with most errors that are shown; at most so many with flags
MOST_CLIPS, CLIP_BYTES = WORST, 5_000_000  # audio clips; bytes of base64 of all clips together
LISTED_BYTES, ROW_BYTES = 3_000_000, 500  # of the list of all utterances; of a row without text and key
UNSURE = 0.1  # the fraction of utterances, least confident, whose share of the errors is stated

Audio = Callable[[str], bytes | None]


@dataclass(frozen=True)
class Line:
    """One utterance in a list."""

    one: Aligned
    text: Markup
    clip: str = ""  # a data: address, or empty

    @property
    def key(self) -> str:
        return visible(self.one.row["key"], 120)

    @property
    def seconds(self) -> str:
        return number(self.one.row.get("seconds"), 1)

    @property
    def confidence(self) -> str:
        return number(self.one.row.get("confidence"))

    @property
    def tags(self) -> list[str]:
        """Flags and note."""
        row = self.one.row
        return list(dict.fromkeys(visible(str(tag)) for tag in (*(row.get("flags") or ()), row.get("note")) if tag))

    @property
    def about(self) -> str:
        """Speaker, duration, confidence and errors."""
        row, one = self.one.row, self.one
        who = [f"{name} {visible(str(row[name]))}" for name in ("speaker", "voice", "language") if row.get(name)]
        parts = [*who, f"{self.seconds} s" if is_number(row.get("seconds")) else ""]
        parts += [f"confidence {self.confidence}" if is_number(row.get("confidence")) else ""]
        parts += [f"WER {percent(one.wer, 1)} % of {counted(one.words, 'word')}"]
        parts += [f"{one.substitutions:,} sub, {one.deletions:,} del, {one.insertions:,} ins"]
        return " \u00b7 ".join(filter(None, parts))


def render(
    rows: Sequence[dict[str, Any]],
    score: Mapping[str, Any],
    other: tuple[Sequence[dict[str, Any]], Mapping[str, Any]] | None = None,
    curves: Sequence[Mapping[str, Any]] | None = None,
    audio: Audio | None = None,
) -> str:
    """The page as text that can always be encoded as UTF-8. UserError for an unknown normaliser.

    `rows` and `score` are the contents of results.jsonl and score.json, `other` those of a second system; `curves` the
    records of a run's metrics.jsonl; `audio` returns the FLAC file of an utterance by its key, or None."""
    utterances = align(rows, str(score["normaliser"]))
    wrong = sorted((one for one in utterances if one.errors), key=_worst_first)
    worst, listed = _worst(wrong), list(_within_bytes(sorted(utterances, key=_worst_first)))
    second = other[1] if other else None
    charts = [
        wer_against("seconds", "seconds", utterances, "WER against duration"),
        wer_against("confidence", "confidence", utterances, "WER against confidence"),
    ]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "number": number, "visible": visible, "counted": counted}
    return environment.get_template("report.html").render(
        name=name_of(score),
        data=visible(str(score.get("shards") or ""), 120),
        normaliser=visible(str(score["normaliser"])),
        headline=headline(score),
        facts=tables.facts(score),
        rates=tables.rates(score),
        normalisers=tables.normalisers(score, second),
        groups=tables.groups(score, second),
        comparison=compare(utterances, score, *other) if other else None,
        charts=[chart for chart in charts if chart is not None],
        unsure=unsure(utterances),
        curves=curves_of(curves or [], score.get("step")),
        confusions=confusions(utterances),
        worst=list(_with_clips(worst, audio)),
        worst_share=share(sum(one.errors for one in worst), sum(one.errors for one in wrong)),
        listed=listed,
        utterances=len(utterances),
        right=len(utterances) - len(wrong),
        confident=any(is_number(row.get("confidence")) for row in rows),
        only_flagged=WORST_FLAGGED if sum(bool(one.row.get("flags")) for one in wrong) > WORST_FLAGGED else None,
        marked=marked,
    )


def headline(score: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Names, values and remarks of the numbers at the top; a remark may be empty."""
    whole, decoding = score.get("all") or {}, score.get("decoding") or {}
    interval, characters, words = span(whole.get("interval")), whole.get("characters"), whole.get("words")
    figures = [
        ("WER", with_sign(whole.get("wer")), f"95 % interval {interval}" if interval != ABSENT else ""),
        ("CER", with_sign(whole.get("cer")), f"of {number(characters)} characters" if characters else ""),
    ]
    for name in ("substitutions", "deletions", "insertions"):
        times = whole.get(name)
        figures.append((name, number(times), f"{share(times, words, 2)} % of the words" if times and words else ""))
    utterances = whole.get("utterances")
    figures.append(("words", number(words), f"in {counted(utterances, 'utterance')}" if utterances else ""))
    if is_number(decoding.get("rtfx")):
        figures.append(("RTFx", number(decoding["rtfx"], 1), "seconds of audio per second"))
    return figures


def with_sign(fraction: Any) -> str:
    return f"{percent(fraction)} %" if is_number(fraction) else ABSENT


def unsure(utterances: Sequence[Aligned]) -> str:
    """A sentence on the share of errors in the least confident utterances; empty if confidence is not known."""
    have = [one for one in utterances if is_number(one.row.get("confidence")) and one.row["confidence"] > 0]
    errors = sum(one.errors for one in have)
    if len(have) < 1 / UNSURE or not errors:
        return ""
    least = sorted(have, key=lambda one: one.row["confidence"])[: round(UNSURE * len(have))]
    part = share(sum(one.errors for one in least), errors)
    return f"The {percent(UNSURE, 0)} % of the utterances with the lowest confidence have {part} % of the errors."


def _worst_first(one: Aligned) -> tuple[float, float, str]:
    return -one.errors, -(one.wer or 0.0), one.row["key"]


def _worst(wrong: Sequence[Aligned]) -> list[Aligned]:
    """The WORST utterances with most errors, at most WORST_FLAGGED with a flag if there are others, as loops would fill
    the list."""
    flagged = [one for one in wrong if one.row.get("flags")]
    others = [one for one in wrong if not one.row.get("flags")]
    chosen = [*flagged[:WORST_FLAGGED], *others, *flagged[WORST_FLAGGED:]][:WORST]
    return sorted(chosen, key=_worst_first)


def _with_clips(worst: Sequence[Aligned], audio: Audio | None) -> list[Line]:
    lines, left = [], CLIP_BYTES
    for place, one in enumerate(worst):
        flac = audio(one.row["key"]) if audio is not None and place < MOST_CLIPS else None
        clip = f"data:audio/flac;base64,{base64.b64encode(flac).decode()}" if flac else ""
        clip = clip if len(clip) <= left else ""
        left -= len(clip)
        lines.append(Line(one, marked(one), clip))
    return lines


def _within_bytes(ordered: Iterable[Aligned]) -> Iterator[Line]:
    """Yields the first lines, up to LISTED_BYTES in all."""
    left = LISTED_BYTES
    for one in ordered:
        line = Line(one, marked(one))
        left -= ROW_BYTES + len(line.text.encode()) + 5 * len(line.key.encode())  # a key is escaped, too
        if left < 0:
            return
        yield line
