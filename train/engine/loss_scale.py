"""Loss scaling for float16: gradients inside the LLM are computed times a power of two, so that they do not vanish.

The scale halves when a gradient overflows and doubles after a while without (Micikevicius et al., arXiv 1710.03740).
Float32 and bfloat16 have the range to do without: their scale stays 1.
"""

FIRST, MOST = 2.0**16, 2.0**24
STEPS_TO_DOUBLE = 2000


class LossScale:
    """The scale (`value`) and how many steps it has held (`steady`)."""

    def __init__(self, on: bool) -> None:
        self.on, self.value, self.steady = on, FIRST if on else 1.0, 0

    def update(self, finite: bool) -> bool:
        """After a step whose gradient was finite or not; True if it was not and a smaller scale may mend that."""
        lowers = self.on and not finite and self.value > 1
        self.steady = self.steady + 1 if self.on and finite else 0
        if lowers:
            self.value = max(self.value / 2, 1.0)
        elif self.steady == STEPS_TO_DOUBLE:
            self.value, self.steady = min(self.value * 2, MOST), 0
        return lowers

    def restore(self, value: float, steady: int) -> None:
        """As it was when a checkpoint was written."""
        if self.on:
            self.value, self.steady = value, steady
