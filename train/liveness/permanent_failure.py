"""Marks a failure as permanent for whoever restarts the job, such as Slurm's script, through a file.

Exit codes do not reach it, as the other ranks are killed when one leaves. What is refused before the first step is a
mistake in the recipe or its data and would be refused again. What fails later, or because of the host or its disks, may
pass, so it is never marked.
"""

import os
from contextlib import suppress
from pathlib import Path

from model.errors import TransientError, UserError

VARIABLE = "SLAM_ASR_REFUSAL"  # names the file


def mark(error: UserError | str) -> None:
    """Writes the error into the file, if there is one and another try would fail too."""
    file = os.environ.get(VARIABLE)
    if file and not isinstance(error, TransientError):
        with suppress(OSError):
            Path(file).write_text(f"{error}\n")


def accepted() -> None:
    """From here on no failure is marked: the run was accepted."""
    os.environ.pop(VARIABLE, None)
