"""`slam-asr prep export`: shards to a dataset of another toolkit."""

from __future__ import annotations

import argparse
from pathlib import Path

from data_prep.exporters import EXPORTERS


def configure(parser: argparse.ArgumentParser) -> None:
    kinds = "; ".join(f"{kind}: {what}" for kind, what in EXPORTERS.items())
    parser.add_argument("dataset", help="a directory that prep build made, or its address")
    parser.add_argument("out", type=Path, help="folder to write to; empty, or not there yet")
    parser.add_argument("--format", required=True, choices=tuple(EXPORTERS), metavar="FORMAT", help=kinds)
    parser.add_argument("--wav", action="store_true", help="16-bit WAV, for tools that cannot read FLAC")


def run(args: argparse.Namespace) -> int:
    from data_prep.exporters import export
    from data_prep.index import read_index

    index = read_index(args.dataset)
    written = export(index, args.out, args.format, args.wav)
    print(f"{written}: {len(index):,} utterances, {index.seconds / 3600:,.2f} h")
    return 0
