"""An audit on one screen."""

import textwrap
from collections.abc import Sequence

from data_prep.figures import counted, in_hours, table
from data_prep.inspect.audit.audit import Audit
from data_prep.inspect.audit.findings import Finding
from data_prep.text import printable

WIDTH = 110  # characters of a line
SHOWN_TEXT = 40  # characters of a transcript


def summary(audit: Audit, max_problems: int = 50) -> str:
    """What the directory holds, its problems, its judgements with the worst of each."""
    verdict = counted(len(audit.problems), "problem")
    if not audit.problems:
        verdict = f"all well: hashes, headers and metadata agree, {depth(audit)}"
    lines = [*problem_lines(audit, max_problems), f"{printable(audit.root)}: {contents(audit)}", verdict]
    raised = audit.raised
    if raised:
        lines += ["", f"{len(raised)} of {len(audit.findings)} judgements found something:"]
        lines += [f"  {line}" for line in table([_row(finding) for finding in raised], left=(0, 3))]
        lines += _listed("nothing found", [finding.name for finding in audit.findings if not finding.count])
    elif audit.findings:
        lines += ["", f"none of {len(audit.findings)} judgements found anything"]
    return "\n".join(lines + _listed("not judged", audit.not_judged))


def problem_lines(audit: Audit, most: int) -> list[str]:
    """The first problems, and how many more there are."""
    shown = [printable(problem) for problem in audit.problems[:most]]
    left = len(audit.problems) - len(shown)
    return [*shown, f"... and {counted(left, 'problem')} more (--max-problems)"] if left else shown


def contents(audit: Audit) -> str:
    """Kind, utterances, hours, shards, bytes, and what could not be measured."""
    if not audit.kind:
        return "its index cannot be read, so that nothing in it is judged"
    sizes = f"{counted(audit.utterances, 'utterance')}, {in_hours(audit.seconds)}, {counted(audit.shards, 'shard')}"
    unread = audit.utterances - audit.measured
    rest = f"; {counted(unread, 'utterance')} not read and not judged" if unread else ""
    return f"{audit.kind}, {sizes}, {audit.bytes / 1e6:,.1f} MB{rest}"


def depth(audit: Audit) -> str:
    """What was read."""
    read = "every number of every frame read" if audit.kind == "features" else "every utterance decoded"
    too = f", {counted(audit.webdataset, 'shard')} read by webdataset too" if audit.webdataset else ""
    return f"{read if audit.decoded else 'nothing decoded (--quick)'}{too}"


def share(finding: Finding) -> str:
    """Of the utterances that it was applied to."""
    part = finding.count / finding.judged
    return f"{part:.1%}" if part >= 0.001 else "<0.1%"


def _row(finding: Finding) -> tuple[str, str, str, str]:
    """Name, count, share, and the worst example."""
    worst = finding.examples[0]
    words = printable(worst.text)
    words = words if len(words) <= SHOWN_TEXT else f"{words[: SHOWN_TEXT - 3]}..."
    example = "  ".join(part for part in (worst.key, printable(worst.value), f'"{words}"') if part)
    return printable(finding.name), f"{finding.count:,}", share(finding), example


def _listed(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return textwrap.wrap(f"{what}: {', '.join(names)}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
