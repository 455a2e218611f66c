"""`slam-asr prep build`: a corpus or a manifest to shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from data_prep.importers import IMPORTERS
from launch.prep import corpus


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="a corpus folder, or a manifest")
    parser.add_argument("out", type=Path, help="directory of the shards")
    parser.add_argument("--importer", choices=tuple(IMPORTERS), help="default: by what SOURCE is")
    parser.add_argument("--shard-size", type=int, default=1000, metavar="N", help="utterances a shard (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffle over shards (0)")
    parser.add_argument("--workers", type=int, default=corpus.cores(), metavar="N", help="processes (all cores)")
    parser.add_argument("--lowercase", action="store_true", help="write transcripts in lower case")
    parser.add_argument("--min-seconds", type=float, default=0.0, metavar="S", help="drop shorter utterances")
    parser.add_argument("--max-seconds", type=float, default=3600.0, metavar="S", help="drop longer ones (3600)")
    parser.add_argument("--no-verify", action="store_true", help="do not decode FLAC that is copied as it is")
    parser.add_argument("--overwrite", action="store_true", help="replace what other input or options made")
    corpus.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from data_prep.build import BuildOptions, build
    from data_prep.prepare import Limits

    limits = Limits(args.lowercase, args.min_seconds, args.max_seconds, not args.no_verify)
    options = BuildOptions(args.shard_size, args.seed, args.workers, args.max_bad, args.overwrite, limits)
    totals = build(corpus.utterances_of(args.source, args.importer, args), args.out, options)
    if totals.already_built:
        print(f"{args.out} is already built from this input with these options; nothing done")
    if totals.kept_shards:
        print(f"{totals.kept_shards:,} shards were finished before and kept")
    print(
        f"{args.out}: {totals.utterances:,} utterances, {totals.seconds / 3600:,.2f} h, {totals.shards:,} shards, "
        f"{totals.bytes / 1e6:,.1f} MB{_reasons('bad', totals.bad)}{_reasons('dropped', totals.dropped)}"
    )
    return 0


def _reasons(name: str, counts: dict[str, int]) -> str:
    listed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items()))
    return f"; {name}: {listed} (see {name}.jsonl)" if listed else ""
