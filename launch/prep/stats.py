"""`slam-asr prep stats`: what a directory holds, on one screen."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, help="what prep build or prep features made")


def run(args: argparse.Namespace) -> int:
    from data_prep.index import read_index
    from data_prep.stats import table

    print(table(read_index(args.directory)))
    return 0
