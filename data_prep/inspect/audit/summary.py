"""An audit on one screen."""

from __future__ import annotations

import textwrap

from data_prep.figures import counted, in_hours
from data_prep.inspect.audit.audit import Audit
from data_prep.inspect.audit.findings import Finding
from data_prep.text import printable

WIDTH = 110  # characters of a line
SHOWN_TEXT = 40  # characters of a transcript


def summary(audit: Audit, max_problems: int = 50) -> str:
    """What the directory holds, its problems, its judgements with the worst of each."""
    if not audit.problems:
        verdict = f"all well: hashes, headers and metadata agree, {depth(audit)}"
    else:
        verdict = counted(len(audit.problems), "problem")
    lines = [*problem_lines(audit, max_problems), f"{printable(audit.root)}: {contents(audit)}", verdict]
    raised = audit.raised
    if raised:
        lines += ["", f"{len(raised)} of {len(audit.findings)} judgements found something:", *_table(raised)]
    elif audit.findings:
        lines += ["", f"none of {len(audit.findings)} judgements found anything"]
    quiet = [finding.name for finding in audit.findings if not finding.count]
    lines += _listed("nothing found", quiet if raised else [])
    lines += _listed("not judged", audit.not_judged)
    return "\n".join(lines)


def problem_lines(audit: Audit, most: int) -> list[str]:
    """The first problems, and how many more there are."""
    shown = [printable(problem) for problem in audit.problems[:most]]
    left = len(audit.problems) - len(shown)
    return [*shown, f"... and {counted(left, 'problem')} more (--max-problems)"] if left else shown


def contents(audit: Audit) -> str:
    """Kind, utterances, hours, shards, bytes, and what could not be measured."""
    if not audit.kind:
        return "its index cannot be read, so that nothing in it is judged"
    unread = audit.utterances - audit.measured
    parts = [
        audit.kind,
        counted(audit.utterances, "utterance"),
        in_hours(audit.seconds),
        counted(audit.shards, "shard"),
        f"{audit.bytes / 1e6:,.1f} MB",
    ]
    return ", ".join(parts) + (f"; {counted(unread, 'utterance')} not read and not judged" if unread else "")


def depth(audit: Audit) -> str:
    """How deep it looked."""
    read = "every number of every frame read" if audit.kind == "features" else "every utterance decoded"
    return read if audit.decoded else "nothing decoded (--quick)"


def share(finding: Finding) -> str:
    """Of the utterances that it was applied to."""
    part = finding.count / finding.judged
    return f"{part:.1%}" if part >= 0.001 else "<0.1%"


def _table(findings: tuple[Finding, ...]) -> list[str]:
    name_width = max(len(printable(finding.name)) for finding in findings)
    count_width = max(len(f"{finding.count:,}") for finding in findings)
    lines = []
    for finding in findings:
        worst = finding.examples[0]
        words = printable(worst.text)
        words = words if len(words) <= SHOWN_TEXT else f"{words[: SHOWN_TEXT - 3]}..."
        shown = "  ".join(part for part in (worst.key, printable(worst.value), f'"{words}"') if part)
        lines.append(
            f"  {printable(finding.name):<{name_width}}  {finding.count:>{count_width},}  {share(finding):>6}  {shown}"
        )
    return lines


def _listed(what: str, names: list[str] | tuple[str, ...]) -> list[str]:
    if not names:
        return []
    return textwrap.wrap(f"{what}: {', '.join(names)}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
