"""An audit on one screen of text, and as a page of HTML."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from data_prep import figures
from data_prep.figures import in_hours
from data_prep.inspect import html_page
from data_prep.inspect.audit.audit import BARS, Audit, Finding, Spread
from data_prep.inspect.html_page import table, text
from data_prep.inspect.stats import Breakdown
from data_prep.text import printable
from model.errors import counted

WIDTH = 110  # characters of a line
SHOWN_TEXT = 40  # characters of a transcript
BAR, HEIGHT = 12, 120  # units of the drawing: width of a bar, height of the highest
GROUPS = {"text": "Transcripts", "audio": "Audio", "set": "The set", "overlap": "Overlap with other sets"}


def summary(audit: Audit, max_problems: int = 50) -> str:
    """What the directory holds, its problems, its judgements with the worst of each."""
    verdict = counted(len(audit.problems), "problem")
    if not audit.problems:
        verdict = f"all well: hashes, headers and metadata agree, {depth(audit)}"
    lines = [*problem_lines(audit, max_problems), f"{printable(audit.root)}: {contents(audit)}", verdict]
    raised = audit.raised
    if raised:
        lines += ["", f"{len(raised)} of {len(audit.findings)} judgements found something:"]
        lines += [f"  {line}" for line in figures.table([_line(finding) for finding in raised], left=(0, 3))]
        lines += _listed("nothing found", [finding.name for finding in audit.findings if not finding.count])
    elif audit.findings:
        lines += ["", f"none of {len(audit.findings)} judgements found anything"]
    return "\n".join(lines + _listed("not judged", audit.not_judged))


def problem_lines(audit: Audit, most: int) -> list[str]:
    shown = [printable(problem) for problem in audit.problems[:most]]
    left = len(audit.problems) - len(shown)
    return [*shown, f"... and {counted(left, 'problem')} more (--max-problems)"] if left else shown


def contents(audit: Audit) -> str:
    if not audit.kind:
        return "its index cannot be read, so that nothing in it is judged"
    sizes = f"{counted(audit.utterances, 'utterance')}, {in_hours(audit.seconds)}, {counted(audit.shards, 'shard')}"
    unread = audit.utterances - audit.measured
    rest = f"; {counted(unread, 'utterance')} not read and not judged" if unread else ""
    return f"{audit.kind}, {sizes}, {audit.bytes / 1e6:,.1f} MB{rest}"


def depth(audit: Audit) -> str:
    read = "every number of every frame read" if audit.kind == "features" else "every utterance decoded"
    too = f", {counted(audit.webdataset, 'shard')} read by webdataset too" if audit.webdataset else ""
    return f"{read if audit.decoded else 'nothing decoded (--quick)'}{too}"


def share(finding: Finding) -> str:
    """Of the utterances that it was applied to."""
    part = finding.count / finding.judged
    return f"{part:.1%}" if part >= 0.001 else "<0.1%"


def _line(finding: Finding) -> tuple[str, str, str, str]:
    worst = finding.examples[0]
    words = printable(worst.text)
    words = words if len(words) <= SHOWN_TEXT else f"{words[: SHOWN_TEXT - 3]}..."
    example = "  ".join(part for part in (worst.key, printable(worst.value), f'"{words}"') if part)
    return printable(finding.name), f"{finding.count:,}", share(finding), example


def _listed(what: str, names: Sequence[str]) -> list[str]:
    line = f"{what}: {', '.join(names)}"
    return textwrap.wrap(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False) if names else []


def page(audit: Audit, max_problems: int = 50) -> str:
    """As HTML; everything from the data is escaped."""
    body = [f"<p><code>{text(audit.root)}</code>: {text(contents(audit))}</p>", "<h2>Integrity</h2>"]
    if audit.problems:
        items = [f"<li><code>{text(line)}</code></li>" for line in problem_lines(audit, max_problems)]
        body += [f'<p><span class="bad">{counted(len(audit.problems), "problem")}.</span></p>', "<ul>", *items, "</ul>"]
    else:
        agree = f"Hashes, headers and metadata agree, {depth(audit)}."
        body.append(f'<p><span class="good">All well.</span> {agree}</p>')
    body += _judgements(audit)
    if audit.spreads:
        body += ["<h2>How it is spread</h2>", '<div class="spreads">', *map(_histogram, audit.spreads), "</div>"]
    body += [*_breakdown("Languages", audit.languages), *_breakdown("Speakers", audit.speakers)]
    return html_page.page(f"Audit of {Path(audit.root).name or audit.root}", body)


def _judgements(audit: Audit) -> list[str]:
    lines = ["<h2>Judgements</h2>", "<p>Warnings, for a person to look at; the rule tells when each is raised.</p>"]
    for group, heading in GROUPS.items():
        findings = [finding for finding in audit.findings if finding.group == group]
        if findings:
            rows = []
            for finding in findings:
                style, part = ("warn", share(finding)) if finding.count else ("good", "")
                count = f'<span class="{style}">{finding.count:,}</span>'
                rows.append((text(finding.name), count, text(part), text(finding.rule)))
            lines += [f"<h3>{heading}</h3>", table(("judgement", "found", "share", "rule"), rows, numbers=(1, 2))]
            lines += [_examples(finding) for finding in findings if finding.count]
    if audit.not_judged:
        lines.append(f"<p>Not judged, as they apply to no utterance: {text(', '.join(audit.not_judged))}.</p>")
    return lines


def _examples(finding: Finding) -> str:
    rows = [(f"<code>{text(e.key)}</code>", text(e.value), f"<bdi>{text(e.text)}</bdi>") for e in finding.examples]
    worst = f"{text(finding.name)}: the worst {len(rows)}" if len(rows) > 1 else text(finding.name)
    return f"<details><summary>{worst}</summary>{table(('key', 'found', 'transcript'), rows)}</details>"


def _histogram(spread: Spread) -> str:
    highest, step = max(*spread.counts, 1), (spread.high - spread.low) / BARS
    bars = []
    for place, count in enumerate(spread.counts):
        low, tall = spread.low + place * step, HEIGHT * count / highest
        where = f'x="{place * BAR}" y="{HEIGHT - tall:.1f}" width="{BAR - 1}" height="{tall:.1f}"'
        bars.append(f"<rect {where}><title>{low:g} to {low + step:g}: {count:,}</title></rect>")
    width, middle = BARS * BAR, (spread.low + spread.high) / 2
    marks = [("start", 0, spread.low), ("middle", width / 2, middle), ("end", width, spread.high)]
    axis = [f'<text x="{x:g}" y="{HEIGHT + 16}" text-anchor="{anchor}">{at:g}</text>' for anchor, x, at in marks]
    low, few, median, most, high = spread.quantiles
    caption = f"{low:g} to {high:g}, median {median:g}, 90 % within {few:g} to {most:g}"
    return (
        f'<figure><svg viewBox="0 0 {width} {HEIGHT + 20}" role="img" aria-label="{text(spread.name)}">'
        f'{"".join(bars)}<line x1="0" y1="{HEIGHT}" x2="{width}" y2="{HEIGHT}"/>{"".join(axis)}</svg>'
        f"<figcaption><b>{text(spread.name)}</b>, {text(spread.unit)}: {caption}</figcaption></figure>"
    )


def _breakdown(heading: str, breakdown: Breakdown) -> list[str]:
    if not breakdown.names:
        return [f"<h2>{heading}</h2>", "<p>None are given.</p>"]
    most = breakdown.top[0].seconds or 1.0
    bar = '<svg viewBox="0 0 100 8" style="width: 12rem"><rect width="{:.1f}" height="8"/></svg>'
    rows = [
        (text(top.name), f"{top.utterances:,}", in_hours(top.seconds), bar.format(100 * top.seconds / most))
        for top in breakdown.top
    ]
    rest = f"<p>{breakdown.names:,} in all; {counted(breakdown.nameless, 'utterance')} without one.</p>"
    return [f"<h2>{heading}</h2>", table(("name", "utterances", "audio", ""), rows, numbers=(1, 2)), rest]
