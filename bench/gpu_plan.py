"""What `slam-asr plan` predicts for the peak of each row of the GPU bench, beside what was measured."""

from collections.abc import Sequence
from typing import Any

import torch

from bench.gpu_train import Row
from bench.toys import Toy, configs
from launch.plan.shapes import Shapes, shapes_of
from train.recipe.config import AdapterConfig, ModelConfig

HEADER = "plan        source    tokens  predicted GB  measured GB  predicted / measured"


def shapes_for(toy: Toy, dtype: torch.dtype) -> Shapes:
    """What the plan knows of a pair: its configurations alone."""
    encoder, llm = configs(toy)
    adapter = AdapterConfig(hidden=toy.hidden)
    name: Any = str(dtype).removeprefix("torch.")
    return shapes_of(encoder, llm, ModelConfig(encoder="-", llm="-", dtype=name, adapter=adapter))


def planned_and_measured(rows: Sequence[Row]) -> str:
    """A line a row; without a GPU nothing was measured."""
    return "\n".join([HEADER, *map(_line, rows)])


def _line(row: Row) -> str:
    measured, ratio = "-", "-"
    if row.peak_bytes:
        measured, ratio = f"{row.peak_bytes / 2**30:.1f}", f"{row.planned_bytes / row.peak_bytes:.2f}"
    planned = row.planned_bytes / 2**30
    return f"{row.pair:10}  {row.source:8}  {row.budget:6,}  {planned:12.1f}  {measured:>11}  {ratio:>20}"
