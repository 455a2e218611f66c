"""`slam-asr prep stats`: what a directory holds, on one screen."""

from __future__ import annotations

import argparse

NAMES = ("language", "speaker")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", help="what prep build, prep features or prep index made, or its address")
    parser.add_argument("--by", action="append", choices=NAMES, help="hours of each, from the metadata in the shards")


def run(args: argparse.Namespace) -> int:
    from data_prep.inspect.stats import table, table_by
    from data_prep.shards.opening import read_index

    index = read_index(args.directory)
    print(table(index))
    for name in dict.fromkeys(args.by or ()):
        print(f"\n{table_by(index, name)}")
    return 0
