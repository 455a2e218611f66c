"""What to train with, by hours of data and by the width of the LLM: starting points, each with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass

from data_prep.figures import table
from train.recipe.auto import LEAST_STEP

TOY_WIDTH = 512  # below it an LLM is a stand-in such as model/stand_in/llm
HOURS_SHOWN = (1, 10, 100, 1000)
EPOCHS = ((3.0, 30), (30.0, 15), (300.0, 6), (math.inf, 3))
"""(at most so many hours of training data, epochs). It takes some thousands of steps until the LLM begins to
transcribe: few hours need many epochs for that, many hours hardly one."""
TOY_EPOCHS = ((1.0, 15), (10.0, 6), (100.0, 3), (math.inf, 2))
"""The same for a toy, which transcribes after some hundred steps (`make demo`)."""
RATES = (
    (TOY_WIDTH - 1, 2e-3, "a toy"),
    (1499, 1e-3, "small"),
    (2047, 3e-4, "of middle size"),
    (math.inf, 1e-4, "as wide as the paper's or wider (arXiv 2402.08846)"),
)
"""(an LLM of at most this width, learning rate, reason)."""
SMALL_HOURS = 30.0
"""Up to here the data are seen so often that dropout and SpecAugment's masks are needed against overfitting."""
LEAST_STEPS = 300
"""Of a run: in fewer steps an adapter rarely learns to transcribe, so minutes of data are seen more often."""
MOST_EPOCHS = 200


@dataclass(frozen=True)
class Choice:
    """Values of a recipe, and the reason for its learning rate."""

    epochs: int
    lr: float
    lr_why: str
    hidden: int
    dropout: float
    masks: int
    """SpecAugment's, in time and as many in features."""


def choose(hours: float, width: int, epoch_tokens: float = math.inf) -> Choice:
    """For so many hours of training data, and an LLM whose embeddings have `width` values.

    `epoch_tokens` is about the number of LLM tokens in an epoch: minutes of data make few steps an epoch.
    """
    steps = max(1.0, epoch_tokens / LEAST_STEP)
    small, toy = hours <= SMALL_HOURS, width < TOY_WIDTH
    lr, lr_why = next((lr, why) for most, lr, why in RATES if width <= most)
    epochs = next(epochs for most, epochs in (TOY_EPOCHS if toy else EPOCHS) if hours <= most)
    return Choice(
        epochs=max(epochs, min(MOST_EPOCHS, math.ceil(LEAST_STEPS / steps))),
        lr=lr,
        lr_why=f"the LLM is {width:,} wide: {lr_why}",
        hidden=512 if toy else 2048,
        dropout=0.1 if small else 0.0,
        masks=2 if small else 0,
    )


def choices_table(width: int) -> list[str]:
    """Lines of aligned text: what is chosen for 1, 10, 100 and 1,000 hours with such an LLM."""
    head = ("hours", "epochs", "lr", "adapter.dropout", "augment.time_masks", "augment.feature_masks")
    chosen = [(hours, choose(hours, width)) for hours in HOURS_SHOWN]
    rows = [(f"{h:,}", c.epochs, f"{c.lr:g}", f"{c.dropout:g}", c.masks, c.masks) for h, c in chosen]
    return table(rows, head, left=())
