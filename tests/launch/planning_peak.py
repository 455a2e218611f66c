"""A process that measures what steps take and prints it: `python -m tests.launch.planning_peak RECIPE BUDGETS ...`.

One of its own, as a process's memory remembers all that it did before.
"""

import json
import sys
from pathlib import Path

import torch

from launch.plan.data import read_work
from launch.plan.probe import measure
from launch.plan.shapes import read_shapes
from train.recipe.config import load_config


class ResidentMemory:
    """The highest resident memory since the last reset, above that at the first, in bytes."""

    def __init__(self) -> None:
        self.before: int | None = None

    def reset(self) -> None:
        self.before = status("RssAnon") if self.before is None else self.before
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew (proc(5))

    def peak(self) -> int:
        return status("VmHWM") - status("RssFile") - status("RssShmem") - (self.before or 0)


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def main(recipe: str, *budgets: str) -> None:
    torch.set_num_threads(1)
    config = load_config(recipe)
    shapes = read_shapes(config)
    work = read_work(config, shapes, None)
    memory, sizes = ResidentMemory(), map(int, budgets)
    print(json.dumps(list(measure(config, shapes, work, sizes, torch.device("cpu"), 1, memory.reset, memory.peak))))


if __name__ == "__main__":
    main(*sys.argv[1:])
