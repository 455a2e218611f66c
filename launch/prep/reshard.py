"""`slam-asr prep reshard`: finished shards in other sizes, in another order, or fewer of their utterances."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from launch.prep.arguments import add_shard_size, add_shared, local_folder, parse_bytes, print_totals

if TYPE_CHECKING:
    from data_prep.build.workdir import Totals


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("out", type=local_folder, help="directory of the new shards")
    add("directories", nargs="+", metavar="DIR", help="what prep made, of one kind, or its address")
    add_shard_size(parser)
    add("--keys", type=Path, metavar="FILE", help="keep these: a key, or a JSON row with one, a line")
    add("--drop-keys", type=Path, metavar="FILE", help="drop these")
    add("--max-seconds", type=float, default=float("inf"), metavar="S", help="drop longer ones")
    add("--where", action="append", default=[], metavar="F=V", help="keep where field F is V; repeats")
    add_shared(parser, "--min-seconds", "--seed", "--workers", "--overwrite")


def run(args: argparse.Namespace) -> int:
    from data_prep.rework.copying import ReshardOptions, reshard
    from data_prep.rework.subset import Subset, parse_where, read_keys

    subset = Subset(
        keys=read_keys(args.keys) if args.keys else None,
        drop_keys=read_keys(args.drop_keys) if args.drop_keys else frozenset(),
        min_seconds=args.min_seconds,
        max_seconds=args.max_seconds,
        where=parse_where(args.where),
    )
    options = ReshardOptions(
        shard_size=args.shard_size,
        shard_bytes=parse_bytes(args.shard_bytes),
        shuffle=args.shuffle,
        seed=args.seed,
        workers=args.workers,
        overwrite=args.overwrite,
        subset=subset,
    )
    return print_copied(args.out, reshard(args.directories, args.out, options))


def print_copied(out: Path, totals: Totals) -> int:
    """What `out` holds now; the exit code."""
    print_totals(out, totals, "already holds just this" if totals.already_built else "")
    return 0
