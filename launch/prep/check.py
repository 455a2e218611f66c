"""`slam-asr prep check`: whether a directory holds what its index says."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, help="what prep build or prep features made")


def run(args: argparse.Namespace) -> int:
    from data_prep.check import check

    problems = check(args.directory)
    for problem in problems:
        print(problem)
    print(f"{args.directory}: {len(problems):,} problems" if problems else f"{args.directory}: all well")
    return 1 if problems else 0
