"""The lives of a job, as its batch script asks: may another one begin, and what is to be done after it.

    python -m launch.slurm.lives begin RUN --give-up-after 5     0 go on, 3 give up
    python -m launch.slurm.lives end RUN --code CODE             0 finished, 3 failed for good
                                                                 either: 75 try again later, 130 cancelled

Any other code is a fault of the moment (a disk, a missing mount), and the script takes it for 75.

Every life is a line of RUN/slurm/lives.jsonl with the step of its newest checkpoint. A life makes progress if the next
one begins from a later step; so many in a row that do not are a loop, which somebody has to look at. No torch: it runs
on the batch host, before and after the ranks.
"""

import argparse
import json
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from data_prep.figures import counted
from train.dist.lock import holder
from train.liveness.exit_status import AGAIN, FINISHED, STOPPED

GO_ON, FAILED, CANCELLED = 0, 3, 130
MARKERS = (FINISHED, STOPPED, "slurm/refusal")
"""Of the life before, which say nothing of the coming one."""
SECONDS_FOR_THE_LOCK = 90.0
"""As long as a file server may hold the lock of a host that has gone (NFSv4: one lease)."""


def begin(run: Path, give_up_after: int) -> int:
    """Notes a new life, unless the run is cancelled or in use, or the last ones led nowhere."""
    if (run / "slurm" / "CANCEL").exists():
        return _say(CANCELLED, f"cancelled as asked, before it began; saved at step {newest_step(run)}")
    step, lives = newest_step(run), read_lives(run)
    fruitless = 0
    for life in reversed(lives):
        if life.get("step") != step:
            break
        fruitless += 1
    if fruitless >= give_up_after:
        (run / "slurm" / "GAVE_UP").write_text(f"{step} after {fruitless} lives\n")
        return _say(
            FAILED,
            f"{counted(fruitless, 'life', 'lives')} in a row came no further than step {step}: giving up; look at what "
            "is above and submit again",
        )
    by = _holder_after(run, SECONDS_FOR_THE_LOCK)
    nodes = _note(run, step, by)
    if by:
        return _say(AGAIN, f"{run} is in use by {by}; trying again later")
    for marker in MARKERS:
        (run / marker).unlink(missing_ok=True)
    return _say(GO_ON, f"life {len(lives) + 1} on {nodes}: " + (f"from step {step}" if step else "from the start"))


def _note(run: Path, step: int, held: str) -> str:
    """Adds a life; the nodes it is on."""
    env = os.environ
    life = {
        "job": env.get("SLURM_JOB_ID", ""),
        "restart": int(env.get("SLURM_RESTART_COUNT", "0")),
        "nodes": env.get("SLURM_JOB_NODELIST", ""),
        "host": socket.gethostname(),
        "time": time.time(),
        "step": step,
        **({"held": held} if held else {}),
    }
    told = _read(run / "slurm" / "lives.jsonl")
    with open(run / "slurm" / "lives.jsonl", "a") as file:  # a line that was torn stays alone
        file.write(("" if told.endswith("\n") or not told else "\n") + json.dumps(life) + "\n")
    return life["nodes"]


def end(run: Path, code: int) -> int:
    """What the markers say became of it."""
    if (run / FINISHED).exists():
        return _say(GO_ON, f"finished at step {_read(run / FINISHED).strip()}")
    if (run / "slurm" / "CANCEL").exists():
        return _say(CANCELLED, f"cancelled as asked; saved at step {newest_step(run)}")
    if refusal := _read(run / "slurm" / "refusal").strip():
        return _say(FAILED, f"not tried again, as it is a mistake to mend: {refusal}")
    if stopped := _read(run / STOPPED).strip():
        return _say(AGAIN, f"stopped at step {stopped.replace(' ', ' by ', 1)}: requeued, it goes on from there")
    step = newest_step(run)
    return _say(AGAIN, f"ended with code {code} and no marker: requeued, it goes on from step {step}")


def newest_step(run: Path) -> int:
    """Of the newest checkpoint; 0 before the first."""
    names = [path.parent.name for path in (run / "checkpoints").glob("step-*/MANIFEST.json")]
    return max((int(name[5:]) for name in names if name[5:].isdecimal()), default=0)


def read_lives(run: Path) -> list[dict[str, object]]:
    """All lives since the last submission, the oldest first; a torn line is passed over."""
    lives = []
    for line in _read(run / "slurm" / "lives.jsonl").splitlines():
        with suppress(ValueError):
            lives.append(json.loads(line))
    return [life for life in lives if isinstance(life, dict)]


def _holder_after(run: Path, seconds: float) -> str:
    """Who still holds the run's folder after so long: a life that Slurm has ended may still be ending."""
    deadline = time.monotonic() + seconds
    while (by := holder(run)) and time.monotonic() < deadline:
        time.sleep(1)
    return by


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _say(code: int, what: str) -> int:
    print(f"slurm: {what}", file=sys.stderr, flush=True)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="python -m launch.slurm.lives")
    verbs = parser.add_subparsers(dest="verb", required=True)
    beginning, ending = verbs.add_parser("begin"), verbs.add_parser("end")
    for verb in (beginning, ending):
        verb.add_argument("run", type=Path)
    beginning.add_argument("--give-up-after", type=int, required=True)
    ending.add_argument("--code", type=int, required=True)
    args = parser.parse_args()
    if args.verb == "begin":
        return begin(args.run, args.give_up_after)
    return end(args.run, args.code)


if __name__ == "__main__":
    sys.exit(main())
