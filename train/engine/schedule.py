"""What changes from step to step: the learning rate, and the loss scale of float16.

The learning rate has a warm-up, then is constant (the paper's), linear or cosine. With the loss scale, gradients inside
the LLM are computed times a power of two, so that they do not vanish; it halves when a gradient overflows and doubles
after a while without (Micikevicius et al., arXiv 1710.03740). Float32 and bfloat16 have the range to do without."""

import math

from train.recipe.config import OptimConfig
from train.recipe.kinds import decided

SCHEDULES = {  # share of lr, by how much of the way after the warm-up is done (0 to 1)
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}
FIRST_SCALE, MOST_SCALE, STEPS_TO_DOUBLE = 2.0**16, 2.0**24, 2000


def learning_rate(step: int, optim: OptimConfig, total_steps: int) -> float:
    """The learning rate of the update that follows `step` finished ones (0 for the first), of `total_steps` in all.

    The warm-up of W steps rises by lr / W a step, so that the first update has lr / W and update number W has lr. The
    decays then fall from lr towards 0, which the step after the last would have."""
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


class LossScale:
    """The scale (`value`), 1 unless it is `on`, and how many steps it has held (`steady`)."""

    def __init__(self, on: bool) -> None:
        self.on, self.value, self.steady = on, FIRST_SCALE if on else 1.0, 0

    def update(self, finite: bool) -> bool:
        """After a step whose gradient was finite or not; True if it was not and a smaller scale may mend that."""
        lowers = self.on and not finite and self.value > 1
        self.steady = self.steady + 1 if self.on and finite else 0
        if lowers:
            self.value = max(self.value / 2, 1.0)
        elif self.steady == STEPS_TO_DOUBLE:
            self.value, self.steady = min(self.value * 2, MOST_SCALE), 0
        return lowers

    def restore(self, value: float, steady: int) -> None:
        """As it was when a checkpoint was written."""
        if self.on:
            self.value, self.steady = value, steady
