"""`slam-asr prep index`: tars of others made a dataset directory, where they lie."""

from __future__ import annotations

import argparse

from data_prep.figures import counted, in_hours
from launch.prep.arguments import cores, local_folder, local_path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "tars", type=local_path, nargs="+", metavar="TARS", help="tars, or folders of them; none is written to"
    )
    parser.add_argument("out", type=local_folder, help="directory of the index")
    parser.add_argument("--text-field", default="", metavar="NAME", help="field of .json that is the transcript")
    parser.add_argument("--text-extension", default="txt", metavar="EXT", help="of the transcript's own member (txt)")
    parser.add_argument("--prefix-shard", action="store_true", help="put the tar's name in front of each key")
    parser.add_argument(
        "--normalise", "--normalize", default="none", metavar="NAME", help="of transcripts, as in prep build (none)"
    )
    parser.add_argument("--verify", choices=("full", "header"), default="full", help="decode all, or MP3 only (full)")
    parser.add_argument("--no-verify", action="store_const", const="header", dest="verify", help="--verify header")
    parser.add_argument("--workers", type=int, default=cores(), metavar="N", help="processes (all cores)")
    parser.add_argument("--max-bad", type=float, default=0.01, metavar="F", help="fraction that may be bad (0.01)")
    parser.add_argument("--overwrite", action="store_true", help="replace what other tars or options made")


def run(args: argparse.Namespace) -> int:
    from data_prep.build.in_place import ForeignOptions, index_in_place
    from data_prep.importers.webdataset import SampleOptions
    from data_prep.refusals import QUARANTINE

    samples = SampleOptions(args.text_field, args.text_extension.lstrip(".").lower(), args.prefix_shard)
    how = (args.verify == "full", args.workers, args.max_bad, args.overwrite)
    options = ForeignOptions(samples, args.normalise, *how)
    totals = index_in_place(args.tars, args.out, options)
    if totals.already_built:
        print(f"{args.out} already indexes these tars with these options; nothing done")
    if totals.kept_shards:
        print(f"of {counted(totals.shards, 'tar')}, {totals.kept_shards:,} indexed before and kept")
    print(
        f"{args.out}: {counted(totals.utterances, 'utterance')}, {in_hours(totals.seconds)} in "
        f"{counted(totals.shards, 'tar')} of {totals.bytes / 1e6:,.1f} MB, left where they are"
    )
    if totals.unused:
        print(f"members of no use, not opened: {_counts(totals.unused)}")
    if totals.bad:
        print(f"samples of no use: {_counts(totals.bad)} (see {args.out / QUARANTINE})")
    return 0


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
