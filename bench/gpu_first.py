"""The first ten minutes on a GPU: what no CPU could tell about the product there. Called by `bench/gpu.sh first`.

The checks of bench/gpu_checks.py run one after the other in a process beside this one. Each prints its figures as it
has them and a verdict as it ends: ok, or FAILED and why. None stops the others: after one that failed, took too long or
took its process with it, the next ones run in a new process, as an error of CUDA spoils the old one.
`--toy` does all this at toy size, on whatever device there is. Exit code 1 if a check failed.
"""

import argparse
import faulthandler
import multiprocessing
import sys
import textwrap
import time
import traceback
import warnings
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from bench.gpu_checks import CHECKS
from bench.gpu_lab import Check, CheckFailedError, Lab
from bench.gpu_train import Record

START_SECONDS = 300.0
"""For a new process to import what it needs and reach its first check."""
TOY_PATIENCE = 10
"""Times the seconds of a check, for a slow CPU."""


def run_checks(checks: Sequence[Check], toy: bool, record: Record) -> dict[str, str]:
    """Why each check failed, by name; "" for one that passed. What there was no time for is not in it."""
    verdicts: dict[str, str] = {}
    left = list(checks)
    while left:
        if record.late(left[0].name):
            left.pop(0)
            continue
        verdicts |= _run_in_a_process(left, toy, record)
        left = [check for check in left if check.name not in verdicts]
    return verdicts


def _run_in_a_process(checks: Sequence[Check], toy: bool, record: Record) -> dict[str, str]:
    """The verdicts of these checks up to the first that fails, or until the time is up."""
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(checks, toy, writer), daemon=True)
    process.start()
    writer.close()
    verdicts: dict[str, str] = {}
    try:
        for check in checks:
            began = time.monotonic()
            why = _follow(check, toy, process, reader, record)
            seconds = time.monotonic() - began
            record.say(f"{'FAILED' if why else 'ok':6}  {check.name}  {seconds:.0f} s{': ' * bool(why)}{why}")
            verdicts[check.name] = why
            if why or record.time_is_up:
                break
    finally:
        process.kill()
        process.join()
    return verdicts


def _follow(check: Check, toy: bool, process: Any, reader: Connection, record: Record) -> str:
    """Passes on what the check says until it ends; why it failed, or ""."""
    limit = START_SECONDS
    deadline = time.monotonic() + limit
    while reader.poll(max(0.0, deadline - time.monotonic())):
        try:
            kind, text = reader.recv()
        except EOFError:
            process.join()
            return f"its process ended with {process.exitcode}"
        if kind == "says":
            record.say(textwrap.indent(text, " " * 8))
        elif kind == "begins":
            limit = check.seconds * (TOY_PATIENCE if toy else 1)
            deadline = time.monotonic() + limit
        else:
            return text
    return f"it did not end in {limit:g} s"


def _work(checks: Sequence[Check], toy: bool, writer: Connection) -> None:
    """The process of the checks: does them in order up to the first that fails."""
    warnings.filterwarnings("ignore")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lab = Lab(device, toy, lambda text: writer.send(("says", text)))
    for check in checks:
        writer.send(("begins", check.name))
        faulthandler.dump_traceback_later(0.9 * check.seconds * (TOY_PATIENCE if toy else 1))  # where it stands
        try:
            check.work(lab)
            why = ""
        except CheckFailedError as failure:
            why = str(failure)
        except Exception as error:
            writer.send(("says", traceback.format_exc(limit=-4).rstrip()))
            why = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        faulthandler.cancel_dump_traceback_later()
        writer.send(("ends", why))
        if why:
            return


def main() -> int:
    parser = argparse.ArgumentParser(description="the first ten minutes on a GPU")
    names = [check.name for check in CHECKS]
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(names)}; all if none is given")
    parser.add_argument("--toy", action="store_true", help="toy sizes, on any device")
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder for gpu_first.txt")
    parser.add_argument("--minutes", type=float, default=8.5, help="after which no further check is begun")
    args = parser.parse_args()
    if unknown := [name for name in args.checks if name not in names]:
        parser.error(f"unknown check {unknown[0]!r}; known: {', '.join(names)}")
    if not torch.cuda.is_available() and not args.toy:
        print("no GPU here: nothing to check")
        return 0
    chosen = [check for check in CHECKS if not args.checks or check.name in args.checks]
    record = Record(args.out, args.minutes, "gpu_first.txt")
    verdicts = run_checks(chosen, args.toy, record)
    failed = [name for name, why in verdicts.items() if why]
    passed = len(verdicts) - len(failed)
    record.say(f"{passed} of {len(chosen)} checks passed, {len(failed)} failed{': ' * bool(failed)}{', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
