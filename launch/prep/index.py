"""`slam-asr prep index`: existing webdataset tars indexed in place, as a shard directory."""

from __future__ import annotations

import argparse

from launch.prep.arguments import add_shared, listed, local_folder, local_path, print_totals


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("tars", type=local_path, nargs="+", metavar="TARS", help="tars, or folders of them; none is written to")
    add("out", type=local_folder, help="directory of the index")
    add("--text-field", default="", metavar="NAME", help="field of .json that is the transcript")
    add("--text-extension", default="txt", metavar="EXT", help="of the transcript's own member (txt)")
    add("--prefix-shard", action="store_true", help="put the tar's name in front of each key")
    add("--normalise", "--normalize", default="none", metavar="NAME", help="of transcripts, as in prep build (none)")
    add_shared(parser, "--verify", "--no-verify", "--workers", "--max-bad", "--overwrite")


def run(args: argparse.Namespace) -> int:
    from data_prep.build.in_place import ForeignOptions, index_in_place
    from data_prep.importers.webdataset import SampleOptions

    samples = SampleOptions(args.text_field, args.text_extension.lstrip(".").lower(), args.prefix_shard)
    options = ForeignOptions(
        samples=samples,
        normalise=args.normalise,
        verify=args.verify == "full",
        workers=args.workers,
        max_bad=args.max_bad,
        overwrite=args.overwrite,
    )
    totals = index_in_place(args.tars, args.out, options)
    already = "already indexes these tars with these options" if totals.already_built else ""
    print_totals(args.out, totals, already, "tar")
    if totals.unused:
        print(f"members that are not used, not opened: {listed(totals.unused)}")
    return 0
