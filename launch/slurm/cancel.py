"""`slam-asr cancel`: asks a run to save and end, under Slurm or where it runs."""

import argparse
import os
import re
import signal
import socket
from pathlib import Path

from launch.slurm import client
from model.errors import UserError
from train.dist.lock import holder


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Ask a run to save and end after the step it is in; the command that started it resumes it."
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument("--now", action="store_true", help="end it at once; what is not saved is trained again")


def run(args: argparse.Namespace) -> int:
    folder = client.run_folder(args.run)
    numbers = client.read_jobs(folder)
    states = {stage: [job.state for job in client.jobs(number) if job.live] for stage, number in numbers.items()}
    if not any(states.values()):
        return _cancel_process(folder, args.now)
    (folder / "slurm" / "CANCEL").touch()  # keeps the script from requeueing
    faults = []
    for stage in filter(states.get, reversed(states)):  # a stage that waits would begin when the one before it ends
        saves = stage == "train" and states[stage] == ["RUNNING"] and not args.now
        try:
            client.call("scancel", *(["--signal=USR1"] if saves else []), numbers[stage])
        except UserError as error:  # it may have ended meanwhile; the others are to be cancelled all the same
            faults.append(str(error))
        else:
            print(f"{stage}: job {numbers[stage]} " + ("was asked to save and end" if saves else "is cancelled"))
    if faults:
        raise UserError("; ".join(faults))
    return 0


def _cancel_process(folder: Path, now: bool) -> int:
    """A run outside Slurm: signals the process that holds its lock, if it is on this host."""
    by = holder(folder)
    if not by:
        why = "no process holds it" if (folder / "LOCK").exists() else "no run was ever started there"
        raise UserError(f"{folder} is not running: no job of it is left, and {why}")
    match = re.fullmatch(r"process (\d+) on (\S+)", by)
    if not match or match[2] != socket.gethostname():
        raise UserError(f"{folder} is held by {by}; give this command there")
    os.kill(int(match[1]), signal.SIGKILL if now else signal.SIGTERM)
    print(f"process {match[1]} was " + ("killed" if now else "asked to save and end"))
    return 0
