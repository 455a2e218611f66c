"""What a check found, and the table of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "FAIL"


@dataclass(frozen=True)
class Finding:
    """One thing looked at, on one host or over all ranks."""

    check: str
    level: str
    """ok, warn (a training will run) or FAIL (it would not, or not right)."""
    what: str
    """What was found, with its figures."""
    todo: str = ""
    where: str = ""
    """The host or rank; "" for all of them together."""
    figure: float | None = None
    """What may differ from host to host without being another finding, and its unit."""
    unit: str = ""
    mistake: bool = False
    """Of a FAIL: whether it will be one again at another try, on other hosts."""


def failures(findings: Sequence[Finding]) -> int:
    """Different things that would stop a training."""
    return len({(one.check, one.what) for one in findings if one.level == FAIL})


def table(findings: Sequence[Finding]) -> list[str]:
    """Lines of text. What is the same on several hosts is one line; what is wrong comes last, with what to do."""
    merged: dict[tuple[str, str, str, str], list[Finding]] = {}
    for one in findings:
        merged.setdefault((one.level, one.check, one.what, one.todo), []).append(one)
    rows = [(*key[:2], _places(same), f"{key[2]}{_figures(same)}", key[3]) for key, same in merged.items()]
    rows.sort(key=lambda row: (OK, WARN, FAIL).index(row[0]))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = []
    for *head, what, todo in rows:
        start = "  ".join(text.ljust(width) for text, width in zip(head, widths, strict=True))
        lines.append(f"{start}  {what}" + (f"; {todo}" if todo else ""))
    return lines


def _figures(same: Sequence[Finding]) -> str:
    figures = sorted(one.figure for one in same if one.figure is not None)
    if not figures:
        return ""
    least, most = (f"{figure:,.3g}" if figure < 1000 else f"{figure:,.0f}" for figure in (figures[0], figures[-1]))
    return f" ({least} {same[0].unit})" if least == most else f" ({least} to {most} {same[0].unit})"


def _places(same: Sequence[Finding]) -> str:
    named = sorted({one.where for one in same if one.where})
    if not named:
        return "all"
    return ", ".join(named) if len(named) <= 3 else f"{', '.join(named[:2])} and {len(named) - 2} more"
