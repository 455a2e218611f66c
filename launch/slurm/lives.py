"""What a job's batch script asks before and after each start of the ranks.

    python -m launch.slurm.lives begin RUN --give-up-after 5     0 start them, 3 give up
    python -m launch.slurm.lives end RUN --code CODE             0 finished, 3 failed for good
                                                                 either: 75 requeue, 130 cancelled

Any other code comes from a passing fault (a disk, a missing mount); the script takes it for 75.

Every start is a line of RUN/slurm/lives.jsonl with the step that it resumes from. Several starts in a row from the same
step are a loop that a person has to look at. This runs on the batch host, without torch."""

import itertools
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from data_prep.durable import read_records
from model.errors import counted
from train.dist.lock import holder
from train.liveness.exit_status import AGAIN, FINISHED, STOPPED

GO_ON, FAILED, CANCELLED = 0, 3, 130
MARKERS = (FINISHED, STOPPED, "slurm/refusal")  # how the start before has ended
SECONDS_FOR_THE_LOCK = 90.0  # a file server may hold the lock of a host that is gone so long (NFSv4: one lease)


def begin(run: Path, give_up_after: int) -> int:
    """Notes a start, unless the run is cancelled or in use, or the last starts led nowhere."""
    step, lives = newest_step(run), read_lives(run)
    if (run / "slurm" / "CANCEL").exists():
        return _report(CANCELLED, f"cancelled as asked, before it began; saved at step {step}")
    fruitless = len(list(itertools.takewhile(lambda life: life.get("step") == step, reversed(lives))))
    if fruitless >= give_up_after:
        (run / "slurm" / "GAVE_UP").write_text(f"{step} after {fruitless} starts\n")
        starts = f"{counted(fruitless, 'start')} in a row came no further than step {step}"
        return _report(FAILED, f"{starts}: giving up; look at the output above and submit again")
    deadline = time.monotonic() + SECONDS_FOR_THE_LOCK
    while (by := holder(run)) and time.monotonic() < deadline:  # what Slurm has ended may still be ending
        time.sleep(1)
    job, restart, nodes = (os.environ.get(f"SLURM_{name}", "") for name in ("JOB_ID", "RESTART_COUNT", "JOB_NODELIST"))
    life = {"job": job, "restart": int(restart or 0), "nodes": nodes, "host": socket.gethostname()}
    life |= {"time": time.time(), "step": step} | ({"held": by} if by else {})
    with open(run / "slurm" / "lives.jsonl", "a") as file:
        file.write(f"\n{json.dumps(life)}\n")  # the last line may be torn
    if by:
        return _report(AGAIN, f"{run} is in use by {by}; trying again later")
    for marker in MARKERS:
        (run / marker).unlink(missing_ok=True)
    origin = f"step {step}" if step else "the beginning"
    return _report(GO_ON, f"start {len(lives) + 1} on {nodes}: from {origin}")


def end(run: Path, code: int) -> int:
    """What to do next, by the markers."""
    if (run / FINISHED).exists():
        return _report(GO_ON, f"finished at step {_read(run / FINISHED)}")
    step = newest_step(run)
    if (run / "slurm" / "CANCEL").exists():
        return _report(CANCELLED, f"cancelled as asked; saved at step {step}")
    if refusal := _read(run / "slurm" / "refusal"):
        return _report(FAILED, f"not tried again, as it is a mistake to mend: {refusal}")
    if stopped := _read(run / STOPPED):
        return _report(AGAIN, f"stopped at step {stopped.replace(' ', ' by ', 1)}: requeued, it resumes from there")
    return _report(AGAIN, f"ended with code {code} and no marker: requeued, it resumes from step {step}")


def newest_step(run: Path) -> int:
    """Of the newest checkpoint; 0 before the first."""
    names = [path.parent.name for path in (run / "checkpoints").glob("step-*/MANIFEST.json")]
    return max((int(name[5:]) for name in names if name[5:].isdecimal()), default=0)


def read_lives(run: Path) -> list[dict[str, Any]]:
    """All starts since the last submission, the oldest first."""
    return read_records(run / "slurm" / "lives.jsonl")


def _read(file: Path) -> str:
    return file.read_text(errors="replace").strip() if file.exists() else ""


def _report(code: int, line: str) -> int:
    print(f"slurm: {line}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    verb, folder, _, number = sys.argv[1:]
    sys.exit({"begin": begin, "end": end}[verb](Path(folder), int(number)))
