"""An audit as a page of HTML that needs nothing else: no script, no style, font or picture from elsewhere."""

from __future__ import annotations

from html import escape
from pathlib import Path

from data_prep.durable import write_durably
from data_prep.figures import counted, in_hours
from data_prep.inspect.audit.audit import Audit
from data_prep.inspect.audit.findings import Finding
from data_prep.inspect.audit.spread import BARS, Spread
from data_prep.inspect.audit.summary import contents, depth, problem_lines, share
from data_prep.inspect.stats import Breakdown
from data_prep.text import printable

BAR, HEIGHT = 12, 120  # units of the drawing: width of a bar, height of the highest
GROUPS = {"text": "Transcripts", "audio": "Audio", "set": "The set", "overlap": "Overlap with other sets"}
STYLE = """
:root { color-scheme: light dark; --line: #8886; --bar: #3b78b5; --bad: #b3261e; --warn: #9a6700; --good: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --bar: #78aee0; --bad: #ff8a80; --warn: #e3b341; --good: #56d364; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.text { unicode-bidi: isolate; overflow-wrap: anywhere; }
code { font-size: .9em; overflow-wrap: anywhere; }
.bad { color: var(--bad); } .warn { color: var(--warn); } .good { color: var(--good); }
.spreads { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1rem; }
figure { margin: 0; } svg { width: 100%; height: auto; } rect { fill: var(--bar); } line { stroke: var(--line); }
svg text { font-size: 13px; fill: currentColor; } details { margin: .25rem 0 .75rem; } summary { cursor: pointer; }
"""


def write_report(path: Path, audit: Audit, max_problems: int = 50) -> None:
    """`page` as a file that appears whole or not at all."""
    write_durably(path, page(audit, max_problems).encode())


def page(audit: Audit, max_problems: int = 50) -> str:
    """Everything from the data is escaped."""
    title = f"Audit of {_text(Path(audit.root).name or audit.root)}"
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{STYLE}</style></head><body>",
            f"<h1>{title}</h1>",
            f"<p><code>{_text(audit.root)}</code>: {_text(contents(audit))}</p>",
            *_integrity(audit, max_problems),
            *_judgements(audit),
            *_spreads(audit.spreads),
            *_breakdown("Languages", audit.languages),
            *_breakdown("Speakers", audit.speakers),
            "</body></html>\n",
        ]
    )


def _integrity(audit: Audit, max_problems: int) -> list[str]:
    if not audit.problems:
        said = f'<span class="good">All well.</span> Hashes, headers and metadata agree, {depth(audit)}.'
        return ["<h2>Integrity</h2>", f"<p>{said}</p>"]
    items = [f"<li><code>{_text(line)}</code></li>" for line in problem_lines(audit, max_problems)]
    heading = f'<p><span class="bad">{counted(len(audit.problems), "problem")}.</span></p>'
    return ["<h2>Integrity</h2>", heading, "<ul>", *items, "</ul>"]


def _judgements(audit: Audit) -> list[str]:
    lines = ["<h2>Judgements</h2>", "<p>Warnings, for a person to look at; the rule says when each is raised.</p>"]
    for group, heading in GROUPS.items():
        findings = [finding for finding in audit.findings if finding.group == group]
        if findings:
            head = '<th>judgement</th><th class="number">found</th><th class="number">share</th><th>rule</th>'
            rows = [_finding_row(finding) for finding in findings]
            lines += [f"<h3>{heading}</h3>", f"<table><tr>{head}</tr>", *rows, "</table>"]
            lines += [_examples(finding) for finding in findings if finding.count]
    if audit.not_judged:
        lines.append(f"<p>Not judged, as they apply to no utterance: {_text(', '.join(audit.not_judged))}.</p>")
    return lines


def _finding_row(finding: Finding) -> str:
    style, part = ("warn", share(finding)) if finding.count else ("good", "")
    return (
        f'<tr><td>{_text(finding.name)}</td><td class="number {style}">{finding.count:,}</td>'
        f'<td class="number">{_text(part)}</td><td>{_text(finding.rule)}</td></tr>'
    )


def _examples(finding: Finding) -> str:
    rows = [
        f"<tr><td><code>{_text(example.key)}</code></td><td>{_text(example.value)}</td>"
        f'<td class="text">{_text(example.text)}</td></tr>'
        for example in finding.examples
    ]
    worst = f"{_text(finding.name)}: the worst {len(rows)}" if len(rows) > 1 else _text(finding.name)
    head = "<tr><th>key</th><th>found</th><th>transcript</th></tr>"
    return f"<details><summary>{worst}</summary><table>{head}{''.join(rows)}</table></details>"


def _spreads(spreads: tuple[Spread, ...]) -> list[str]:
    if not spreads:
        return []
    return ["<h2>How it is spread</h2>", '<div class="spreads">', *map(_histogram, spreads), "</div>"]


def _histogram(spread: Spread) -> str:
    highest = max(*spread.counts, 1)
    step = (spread.high - spread.low) / BARS
    bars = []
    for place, count in enumerate(spread.counts):
        low, tall = spread.low + place * step, HEIGHT * count / highest
        where = f'x="{place * BAR}" y="{HEIGHT - tall:.1f}" width="{BAR - 1}" height="{tall:.1f}"'
        bars.append(f"<rect {where}><title>{low:g} to {low + step:g}: {count:,}</title></rect>")
    width, middle = BARS * BAR, (spread.low + spread.high) / 2
    marks = [("start", 0, spread.low), ("middle", width / 2, middle), ("end", width, spread.high)]
    axis = [f'<text x="{x:g}" y="{HEIGHT + 16}" text-anchor="{anchor}">{at:g}</text>' for anchor, x, at in marks]
    low, few, median, most, high = spread.quantiles
    caption = (
        f"<b>{_text(spread.name)}</b>, {_text(spread.unit)}: {low:g} to {high:g}, median {median:g}, "
        f"90 % within {few:g} to {most:g}"
    )
    return (
        f'<figure><svg viewBox="0 0 {width} {HEIGHT + 20}" role="img" aria-label="{_text(spread.name)}">'
        f'{"".join(bars)}<line x1="0" y1="{HEIGHT}" x2="{width}" y2="{HEIGHT}"/>{"".join(axis)}</svg>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _breakdown(heading: str, found: Breakdown) -> list[str]:
    if not found.names:
        return [f"<h2>{heading}</h2>", "<p>None are given.</p>"]
    most = found.top[0].seconds or 1.0
    rows = [
        f'<tr><td>{_text(item.name)}</td><td class="number">{item.utterances:,}</td>'
        f'<td class="number">{in_hours(item.seconds)}</td><td><svg viewBox="0 0 100 8" style="width: 12rem">'
        f'<rect width="{100 * item.seconds / most:.1f}" height="8"/></svg></td></tr>'
        for item in found.top
    ]
    head = '<tr><th>name</th><th class="number">utterances</th><th class="number">audio</th><th></th></tr>'
    rest = f"<p>{found.names:,} in all; {counted(found.nameless, 'utterance')} without one.</p>"
    return [f"<h2>{heading}</h2>", f"<table>{head}{''.join(rows)}</table>", rest]


def _text(value: str) -> str:
    """As text or as an attribute's value; characters that are not seen are written as escapes."""
    return escape(printable(value))
