"""The learning rate of a step: a warm-up, then constant (the paper's), linear or cosine."""

import math

from train.recipe.config import OptimConfig
from train.recipe.kinds import decided

SCHEDULES = {  # share of lr, by how much of the way after the warm-up is done (0 to 1)
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}


def learning_rate(step: int, optim: OptimConfig, total_steps: int) -> float:
    """The learning rate of the update that follows `step` finished ones (0 for the first), of `total_steps` in all.

    The warm-up of W steps rises by lr / W a step, so that the first update has lr / W and update number W has lr. The
    decays then fall from lr towards 0, which the step after the last would have.
    """
    warmup = warmup_steps(optim, total_steps)
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return optim.lr * SCHEDULES[optim.schedule](progress)


def warmup_steps(optim: OptimConfig, total_steps: int) -> int:
    """The steps of the warm-up, a ratio rounded up."""
    if optim.warmup_ratio is not None:
        return math.ceil(optim.warmup_ratio * total_steps)
    return 0 if optim.warmup_steps is None else decided(optim.warmup_steps)
