"""`slam-asr prep merge`: several shard directories as one."""

from __future__ import annotations

import argparse

from launch.prep.arguments import add_shared, local_folder
from launch.prep.reshard import print_copied


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=local_folder, help="directory of the merged shards")
    parser.add_argument("directories", nargs="+", metavar="DIR", help="what prep made, of one kind, or its address")
    parser.add_argument("--copy", action="store_true", help="copy tars also where links would do")
    parser.add_argument("--prefix-keys", metavar="NAME,NAME", help="one for each DIR, before its keys: NAME_KEY")
    add_shared(parser, "--workers", "--overwrite")


def run(args: argparse.Namespace) -> int:
    from data_prep.rework.copying import merge

    prefixes = None if args.prefix_keys is None else args.prefix_keys.split(",")
    totals = merge(args.directories, args.out, args.copy, prefixes, args.workers, args.overwrite)
    return print_copied(args.out, totals)
