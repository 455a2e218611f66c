"""`python -m bench`: measures goals 1 to 8 against their baselines and prints one table. `python -m bench 4 5`: some.

Each file runs in a process of its own, one after the other; figures are CPU seconds or ratios, but two quiet cores give
steadier ones. A whole run is written to bench/results.json. Exits with 0 if all could be measured, met or not; goal 9
needs a GPU: bench/gpu.sh table.
"""

import argparse
import sys
import time
import traceback
from pathlib import Path

from bench.files import FILES, measure_alone
from bench.table import format_table, write_results

RESULTS = Path(__file__).with_name("results.json")


def main() -> int:
    args = _arguments()
    wanted = set(args.goals) or {number for numbers in FILES.values() for number in numbers}
    goals, failed = [], []
    for file, numbers in FILES.items():
        if wanted.isdisjoint(numbers):
            continue
        start = time.monotonic()
        try:
            found = measure_alone(file, args.scale, args.lengths)
        except Exception:
            traceback.print_exc()
            failed.append(file)
            continue
        goals += [goal for goal in found if goal.number[0] in wanted]
        print(f"bench.{file}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    print(format_table(goals))
    if failed:
        print(f"could not be measured: {', '.join(failed)}", file=sys.stderr)
        return 1
    if not args.goals:
        write_results(args.out, goals)
    return 0


def _arguments() -> argparse.Namespace:
    known = sorted({number for numbers in FILES.values() for number in numbers})
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m bench", description="goals against baselines, in one table"
    )
    parser.add_argument("goals", nargs="*", metavar="GOAL", help=f"of {', '.join(known)}; all if none is given")
    parser.add_argument("--scale", type=float, default=1.0, help="how much is measured, 1.0 = some ten minutes in all")
    parser.add_argument("--lengths", type=Path, help="JSONL of real lengths: duration (seconds) and text in each line")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where a whole run is written")
    args = parser.parse_args()
    unknown = [goal for goal in args.goals if goal not in known]
    if unknown:
        parser.error(f"unknown goal {unknown[0]!r}; known: {', '.join(known)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
