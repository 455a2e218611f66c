"""The result of one check of `slam-asr doctor`, and the table of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.figures import table

OK, WARN, FAIL = "ok", "warn", "FAIL"


@dataclass(frozen=True)
class CheckResult:
    """Of one check, on one host or over all ranks."""

    check: str
    level: str  # ok, warn (a training will run) or FAIL (it would not, or not correctly)
    what: str
    todo: str = ""
    where: str = ""  # the host; "" for all of them together
    figure: float | None = None  # may differ from host to host without being another result
    unit: str = ""
    permanent: bool = False  # of a FAIL: whether another try, on other hosts, would fail too


def failures(results: Sequence[CheckResult]) -> int:
    """Different things that would stop a training."""
    return len({(result.check, result.what) for result in results if result.level == FAIL})


def lines_of(results: Sequence[CheckResult]) -> list[str]:
    """A table; what is the same on several hosts is one line, and what is wrong comes last, with what to do."""
    merged: dict[tuple[str, str, str, str], list[CheckResult]] = {}
    for result in sorted(results, key=lambda result: (OK, WARN, FAIL).index(result.level)):
        merged.setdefault((result.level, result.check, result.what, result.todo), []).append(result)
    rows = [
        (level, check, _hosts(same), f"{what}{_figures(same)}" + (f"; {todo}" if todo else ""))
        for (level, check, what, todo), same in merged.items()
    ]
    return table(rows, left=(0, 1, 2, 3))


def _figures(same: Sequence[CheckResult]) -> str:
    figures = sorted(result.figure for result in same if result.figure is not None)
    ends = [f"{figure:,.3g}" if figure < 1000 else f"{figure:,.0f}" for figure in (*figures[:1], *figures[-1:])]
    return f" ({' to '.join(dict.fromkeys(ends))} {same[0].unit})" if ends else ""


def _hosts(same: Sequence[CheckResult]) -> str:
    names = sorted({result.where for result in same if result.where})
    return f"{', '.join(names[:2])} and {len(names) - 2} more" if len(names) > 3 else ", ".join(names) or "all"
