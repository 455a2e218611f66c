"""Loss scaling for float16: gradients inside the LLM are computed times a power of two, so that they do not vanish.

The scale halves when a gradient overflows and doubles after a while without (Micikevicius et al., arXiv 1710.03740).
Float32 and bfloat16 have the range to do without: their scale stays 1.
"""

FIRST = 2.0**16
STEPS_TO_DOUBLE = 2000


class LossScale:
    """The scale and how many steps it has held."""

    def __init__(self, on: bool) -> None:
        self.on = on
        self.value = FIRST if on else 1.0
        self.steady = 0

    def update(self, finite: bool) -> bool:
        """After a step whose gradient was finite or not; True if it was not and a smaller scale may mend that."""
        if not self.on:
            return False
        if finite:
            self.steady += 1
            if self.steady == STEPS_TO_DOUBLE:
                self.value, self.steady = min(self.value * 2, 2.0**24), 0
            return False
        lowers = self.value > 1
        self.value, self.steady = max(self.value / 2, 1.0), 0
        return lowers

    def restore(self, value: float, steady: int) -> None:
        """As it was when a checkpoint was written."""
        if self.on:
            self.value, self.steady = value, steady
