"""`slam-asr prep reshard`: finished shards in other sizes, in another order, or fewer of their utterances."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.figures import counted, in_hours
from data_prep.refusals import DROPPED
from launch.prep.arguments import cores, local_folder, parse_bytes

if TYPE_CHECKING:
    from data_prep.build.finish import Totals


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=local_folder, help="directory of the new shards")
    parser.add_argument("directories", nargs="+", metavar="DIR", help="what prep made, of one kind, or its address")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--shard-size", type=int, default=1000, metavar="N", help="utterances a shard (1000)")
    size.add_argument("--shard-bytes", default="", metavar="500MB", help="so much a shard at most, in place of N")
    parser.add_argument("--shuffle", default="random", metavar="ORDER", help="as of build (random)")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffle (0)")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="keep these: a key, or a JSON row with one, a line")
    parser.add_argument("--drop-keys", type=Path, metavar="FILE", help="drop these")
    parser.add_argument("--min-seconds", type=float, default=0.0, metavar="S", help="drop shorter utterances")
    parser.add_argument("--max-seconds", type=float, default=float("inf"), metavar="S", help="drop longer ones")
    parser.add_argument("--where", action="append", default=[], metavar="F=V", help="keep where field F is V; repeats")
    parser.add_argument("--workers", type=int, default=cores(), metavar="N", help="processes (all cores)")
    parser.add_argument("--overwrite", action="store_true", help="replace what other input or options made")


def run(args: argparse.Namespace) -> int:
    from data_prep.retries import say_retries
    from data_prep.rework.reshard import ReshardOptions, reshard
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
    print(summary(args.out, reshard(args.directories, args.out, options)))
    say_retries()
    return 0


def summary(out: Path, totals: Totals) -> str:
    """What `out` holds now, in a line or a few."""
    lines = []
    if totals.already_built:
        lines.append(f"{out} already holds just this; nothing done")
    if totals.kept_shards:
        lines.append(f"of {counted(totals.shards, 'shard')}, {totals.kept_shards:,} finished before and kept")
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(totals.dropped.items()))
    lines.append(
        f"{out}: {counted(totals.utterances, 'utterance')}, {in_hours(totals.seconds)}, "
        f"{counted(totals.shards, 'shard')}, {totals.bytes / 1e6:,.1f} MB"
        + (f"; dropped: {reasons} (see {DROPPED})" if reasons else "")
    )
    return "\n".join(lines)
