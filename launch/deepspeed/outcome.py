"""How a run has ended, by the markers in its folder: exit codes of launchers prove nothing."""

import time
from pathlib import Path

from train.liveness.exit_status import AGAIN, FINISHED, LAUNCHER_GONE, MISTAKE, STOPPED

LOCK = "LOCK"
"""Rank 0 writes its process number into it at every start."""
SECONDS_TO_APPEAR = 3.0
"""For a marker that another host has written, on a network file system."""

Markers = dict[str, tuple[int, int] | None]
"""Inode and time of each marker; None where it is not there."""


def markers(run: Path) -> Markers:
    list(run.parent.glob(f"{run.name}/*"))  # makes a network file system look again
    return {name: _state(run / name) for name in (FINISHED, STOPPED, LOCK)}


def _state(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def written_since(before: Markers, run: Path) -> set[str]:
    """The markers that have been written since `before`."""
    return {name for name, state in markers(run).items() if state not in (None, before[name])}


def outcome(run: Path, before: Markers, code: int, node_rank: int = 0) -> tuple[int, str]:
    """(exit code, one line), from the markers before and deepspeed's exit code (negative: the signal that ended it)."""
    deadline = time.monotonic() + (SECONDS_TO_APPEAR if code == 0 else 0)
    while not (written := written_since(before, run)) & {FINISHED, STOPPED} and time.monotonic() < deadline:
        time.sleep(0.2)
    failure = code if code > 0 and code != AGAIN else 1  # ranks that have stopped exit with AGAIN
    if FINISHED in written:
        return 0, f"finished: {run / 'checkpoints'}"
    if STOPPED in written:
        step, _, reason = (run / STOPPED).read_text().strip().partition(" ")
        if reason != LAUNCHER_GONE:
            return AGAIN, f"stopped as asked ({reason}) after step {step}; the same command resumes"
        killed = f"{LAUNCHER_GONE}: it was killed, by hand or for memory (see dmesg)"
        return failure, f"{killed}; the ranks saved and left after step {step}; the same command resumes"
    if code == MISTAKE:
        return MISTAKE, "refused, as explained above; nothing was trained"
    if code == AGAIN:
        return AGAIN, "stopped as asked, or by its watchdog, as explained above; the same command resumes"
    if node_rank and code == 0 and LOCK not in written:
        return 0, f"ended without an error; {run} is not the folder of node rank 0: look for {FINISHED} there"
    ended = f"exit code {code}" if code >= 0 else f"ended by signal {-code}"
    return failure, (
        f"failed: there is no new {FINISHED} in {run} (deepspeed: {ended}); the first error above is the cause; once "
        "it is mended, the same command resumes from the newest checkpoint"
    )
