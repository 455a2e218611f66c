"""What became of a run: told by the markers in its folder, as exit codes of launchers prove nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from train.liveness.exit_status import AGAIN, FINISHED, LAUNCHER_GONE, MISTAKE, STOPPED

FAILED = 1
SECONDS_TO_SEE = 3.0
"""For a marker that another host has written to show up on a network file system."""

State = tuple[int, int] | None


@dataclass(frozen=True)
class Markers:
    """Which files they are, and as of when; None for one that is not there."""

    finished: State
    stopped: State
    begun: State
    """config.yaml, which every start writes anew."""

    @classmethod
    def of(cls, run: Path) -> Markers:
        return cls(*(_state(run / name) for name in (FINISHED, STOPPED, "config.yaml")))


def outcome(run: Path, before: Markers, code: int, left: bool, node_rank: int = 0) -> tuple[int, str]:
    """(exit code, one line), from what was there before, the launcher's code, and whether ranks outlived it.

    A negative code is the signal that ended the launcher.
    """
    now = _settled(run, before, code)
    failed = code if code > 0 and code != AGAIN else FAILED  # AGAIN is what ranks that stopped leave with
    if now.finished and now.finished != before.finished:
        return 0, f"finished: {run / 'checkpoints'}"
    if now.stopped and now.stopped != before.stopped:
        step, _, reason = (run / STOPPED).read_text().strip().partition(" ")
        if reason != LAUNCHER_GONE:
            return AGAIN, f"stopped as asked ({reason}) after step {step}; the same command goes on from there"
        return failed, (
            f"{LAUNCHER_GONE}: it was killed, by hand or for memory (dmesg tells); the ranks saved and left after step "
            f"{step}; the same command goes on from there"
        )
    if code == MISTAKE:
        return MISTAKE, "refused, as said above; nothing was trained"
    if code == AGAIN:
        return AGAIN, "stopped as asked, or by its watchdog, as said above; the same command goes on"
    if node_rank and code == 0 and not left and now.begun == before.begun:
        return 0, f"ended well here; {run} is not the folder of node rank 0: there {FINISHED} tells"
    said = f"exit code {code}" if code >= 0 else f"ended by signal {-code}"
    return failed, (
        f"failed: there is no new {FINISHED} in {run} (deepspeed: {said}); the first error above is the cause; mended, "
        "the same command goes on from the newest checkpoint"
    )


def _settled(run: Path, before: Markers, code: int) -> Markers:
    """The markers; of a launcher that ended well, once one is new."""
    deadline = time.monotonic() + (SECONDS_TO_SEE if code == 0 else 0)
    while True:
        list(run.parent.glob(f"{run.name}/*"))  # has a network file system look again
        now = Markers.of(run)
        new = (now.finished, now.stopped) != (None, None) and now != before
        if new or time.monotonic() >= deadline:
            return now
        time.sleep(0.2)


def _state(path: Path) -> State:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
