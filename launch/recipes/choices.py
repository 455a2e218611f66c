"""What to train with, by hours of data and by the width of the LLM: starting points, each with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass

from train.recipe.auto import LEAST_STEP

TOY_WIDTH = 512  # below it an LLM is a stand-in such as model/stand_in/llm
HOURS_SHOWN = (1, 10, 100, 1000)


@dataclass(frozen=True)
class Choice:
    """Values of a recipe, and why."""

    epochs: int
    lr: float
    lr_why: str
    hidden: int
    dropout: float
    time_masks: int
    feature_masks: int


EPOCHS = ((3.0, 30), (30.0, 15), (300.0, 6), (math.inf, 3))
"""Up to so many hours of training data, so many epochs. It takes some thousands of steps until the LLM begins to
transcribe: few hours need many epochs for that, many hours hardly one."""
TOY_EPOCHS = ((1.0, 15), (10.0, 6), (100.0, 3), (math.inf, 2))
"""The same of a toy, which transcribes after some hundred steps (`make demo`)."""
RATES = ((TOY_WIDTH - 1, 2e-3, "a toy"), (1499, 1e-3, "small"), (2047, 3e-4, "of middle size"))
"""Up to so wide an LLM, this learning rate."""
PAPERS = (1e-4, "as wide as the paper's or wider (arXiv 2402.08846)")
SMALL_HOURS = 30.0
"""Data that is seen so often that the adapter would learn it by heart: dropout and SpecAugment's masks are for it."""


LEAST_STEPS = 300
"""In a run: in fewer an adapter rarely learns to transcribe, and data of a few minutes have to be seen more often."""
MOST_EPOCHS = 200


def choose(hours: float, width: int, epoch_tokens: float = math.inf) -> Choice:
    """For so many hours of training data, and an LLM whose embeddings have `width` values.

    `epoch_tokens` are the LLM tokens of an epoch, about: data of a few minutes have few steps in each.
    """
    steps = max(1.0, epoch_tokens / LEAST_STEP)
    small, toy = hours <= SMALL_HOURS, width < TOY_WIDTH
    lr, lr_why = next(((lr, why) for most, lr, why in RATES if width <= most), PAPERS)
    epochs = next(epochs for most, epochs in (TOY_EPOCHS if toy else EPOCHS) if hours <= most)
    return Choice(
        epochs=max(epochs, min(MOST_EPOCHS, math.ceil(LEAST_STEPS / steps))),
        lr=lr,
        lr_why=f"the LLM is {width:,} wide: {lr_why}",
        hidden=512 if toy else 2048,
        dropout=0.1 if small else 0.0,
        time_masks=2 if small else 0,
        feature_masks=2 if small else 0,
    )


def table(width: int) -> list[str]:
    """Lines of aligned text: what is chosen for 1, 10, 100 and 1,000 hours with such an LLM."""
    rows: list[tuple[str, ...]] = [
        ("hours", "epochs", "lr", "adapter.dropout", "augment.time_masks", "augment.feature_masks")
    ]
    for hours in HOURS_SHOWN:
        of = choose(hours, width)
        figures = (of.epochs, f"{of.lr:g}", f"{of.dropout:g}", of.time_masks, of.feature_masks)
        rows.append((f"{hours:,}", *map(str, figures)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
