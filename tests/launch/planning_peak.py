"""A process that measures what steps take and prints it: `python -m tests.launch.planning_peak RECIPE BUDGETS ...`.

One of its own, as a process's memory remembers all that it did before.
"""

import json
import sys
from dataclasses import asdict

import torch

from launch.plan.data import read_work
from launch.plan.probe import measure
from launch.plan.shapes import read_shapes
from train.recipe.config import load_config


def main(recipe: str, *budgets: str) -> None:
    torch.set_num_threads(1)
    config = load_config(recipe)
    shapes = read_shapes(config.model)
    work = read_work(config, shapes, None)
    device = torch.device("cpu")
    readings = [asdict(row) for row in measure(config, shapes, work, map(int, budgets), device, timed_steps=1)]
    print(json.dumps(readings))


if __name__ == "__main__":
    main(*sys.argv[1:])
