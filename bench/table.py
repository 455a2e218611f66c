"""The figures as a table for a terminal, and as JSON beside the machine they were measured on."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.goal import Goal

PACKAGES = ("torch", "transformers", "deepspeed", "numpy", "webdataset", "lhotse")


def format_table(goals: Sequence[Goal]) -> str:
    """One line a goal: number, what, figure, spread, goal, met; and each note on a line below."""
    rows = [("goal", "what", "figure", "spread", "wanted", "met"), *map(_row, goals)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = [f"{'':{widths[0]}}  {goal.note}" for goal in goals]
    return "\n".join([lines[0], *(f"{line}\n{note}" for line, note in zip(lines[1:], notes, strict=True))])


def _row(goal: Goal) -> tuple[str, ...]:
    sign = ">=" if goal.better == "higher" else "<="
    figure = f"{goal.figure:.3g} {goal.unit}"
    return goal.number, goal.name, figure, goal.spread, f"{sign} {goal.goal:g}", "yes" if goal.met else "NO"


def write_results(path: Path, goals: Sequence[Goal]) -> None:
    """`{"machine": ..., "goals": [...]}`, replaced whole."""
    document = {"machine": machine(), "goals": [asdict(goal) | {"met": goal.met} for goal in goals]}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    temporary.replace(path)


def machine() -> dict[str, Any]:
    """The processor, how many cores this process may use, and the versions of what was measured."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name)) is not None},
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
