"""Whether it is any use to try again: told to whoever wants to know, such as Slurm's script, through a file.

Exit codes do not reach it, as the other ranks are killed when one leaves. What is refused before the first step is a
mistake in the recipe or its data, and will be one again. What happens later, and what came of the host or its disks,
may have passed by then: of that nothing is told.
"""

import os
from contextlib import suppress
from pathlib import Path

from model.errors import TransientError, UserError

VARIABLE = "SLAM_ASR_REFUSAL"
"""Names the file."""


def tell(error: UserError | str) -> None:
    """Tells why nothing will come of another try, if somebody asked and that is so."""
    told = os.environ.get(VARIABLE)
    if told and not isinstance(error, TransientError):
        with suppress(OSError):
            Path(told).write_text(f"{error}\n")


def under_way() -> None:
    """From here on nothing is told: the run was accepted."""
    os.environ.pop(VARIABLE, None)
