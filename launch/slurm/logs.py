"""`slam-asr logs`: what a run's job has written, all its lives after one another."""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from pathlib import Path

from data_prep.text import printable
from launch.slurm import client
from launch.slurm.folder import STAGES, folder_of, output_files, read_jobs
from model.errors import UserError

SECONDS_A_LOOK = 0.5
LOOKS_AN_ASK = 20  # at the files for one at Slurm, whose controller serves everybody


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print what the job of a run has written; with -f go on printing until it is over."
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument("-f", "--follow", action="store_true", help="print what comes, until the job is over or Ctrl-C")
    parser.add_argument("-n", "--lines", type=int, metavar="N", help="only the last N lines of what is there")
    parser.add_argument("--stage", choices=STAGES, default="train", help="of a pipeline (train)")


def run(args: argparse.Namespace) -> int:
    folder = folder_of(args.run)
    jobs = read_jobs(folder)
    if args.stage not in jobs:
        given = f"there is {', '.join(jobs)}" if jobs else "it was not started by `slam-asr submit`"
        raise UserError(f"{folder} has no job for {args.stage}; {given}")
    files = output_files(folder, args.stage)
    if not files and not args.follow:
        state = client.jobs(jobs[args.stage])[0].state or "unknown to Slurm"
        print(f"job {jobs[args.stage]} has written nothing yet ({state})", file=sys.stderr)
    read = {file: _print(file, args.lines, whole=args.follow) for file in files}
    while args.follow:
        over = _is_over(jobs[args.stage])
        for _ in range(LOOKS_AN_ASK):
            for file in output_files(folder, args.stage):
                read[file] = _print(file, None, read.get(file, 0), whole=not over)
            if over:
                return 0
            time.sleep(SECONDS_A_LOOK)
    return 0


def _is_over(number: str) -> bool:
    try:
        return not any(job.live for job in client.jobs(number))
    except UserError:  # the controller is away for a while
        return False


def _print(file: Path, lines: int | None, start: int = 0, whole: bool = False) -> int:
    """What is in the file from byte `start` on (`whole` lines alone), and where it ended; it cannot steer the
    terminal."""
    with open(file, "rb") as output:
        output.seek(start)
        text = output.read()
    if whole:
        text = text[: text.rfind(b"\n") + 1]
    found = text.decode(errors="replace").splitlines()
    for line in found if lines is None else deque(found, lines):
        print(printable(line))
    sys.stdout.flush()
    return start + len(text)
