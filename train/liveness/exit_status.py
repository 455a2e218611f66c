"""How a training ended, for launchers and scripts: exit codes, markers in the run's folder, a file for refusals.

Launchers pass on the wrong exit code, or 0: a marker proves what no exit code does. No torch."""

import os
from contextlib import suppress
from pathlib import Path

from model.errors import TransientError, UserError

FINISHED, STOPPED = "FINISHED", "STOPPED"  # the last step is done; stopped when asked, `STEP REASON`
LAUNCHER_GONE = "the launcher is gone"  # the reason where no signal asked, but the launcher of the ranks ended
MISTAKE = 2  # exit code: a person can mend it, and one line on stderr says how
AGAIN = 75  # exit code: stopped as asked, or by the watchdog: the same command goes on; EX_TEMPFAIL of sysexits.h
REFUSAL = "SLAM_ASR_REFUSAL"  # environment variable that names the file


def mark_permanent(error: UserError | str) -> None:
    """Writes an error that another try would meet again into the file, if Slurm's script named one.

    That is what is refused before the first step, a mistake in the recipe or its data. What fails later, or because of
    the host or its disks, may pass."""
    file = os.environ.get(REFUSAL)
    if file and not isinstance(error, TransientError):
        with suppress(OSError):
            Path(file).write_text(f"{error}\n")


def accepted() -> None:
    """From here on no failure is marked: the run was accepted."""
    os.environ.pop(REFUSAL, None)
