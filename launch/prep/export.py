"""`slam-asr prep export`: shards to a dataset of another toolkit."""

from __future__ import annotations

import argparse

from data_prep.exporters import EXPORTERS
from launch.prep.arguments import local_folder


def configure(parser: argparse.ArgumentParser) -> None:
    kinds = "; ".join(f"{kind}: {what}" for kind, what in EXPORTERS.items())
    parser.add_argument("dataset", help="a directory that prep build made, or its address")
    parser.add_argument("out", type=local_folder, help="folder to write to; empty, or not there yet")
    parser.add_argument("--format", required=True, choices=tuple(EXPORTERS), metavar="FORMAT", help=kinds)
    parser.add_argument("--wav", action="store_true", help="16-bit WAV, for tools that cannot read FLAC")


def run(args: argparse.Namespace) -> int:
    from data_prep.exporters import export
    from data_prep.figures import counted, in_hours
    from data_prep.shards.opening import read_index

    index = read_index(args.dataset)
    written = export(index, args.out, args.format, args.wav)
    print(f"{written}: {counted(len(index), 'utterance')}, {in_hours(index.seconds)}")
    return 0
