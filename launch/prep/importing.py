"""`slam-asr prep import`: a corpus to an utterance manifest, to look at before anything is built."""

from __future__ import annotations

import argparse
from pathlib import Path

from data_prep.importers import IMPORTERS
from launch.prep import corpus


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("importer", choices=tuple(IMPORTERS), metavar="IMPORTER", help=", ".join(IMPORTERS))
    parser.add_argument("source", type=Path, help="the corpus folder or the manifest")
    parser.add_argument("--out", type=Path, required=True, metavar="utterances.jsonl")
    corpus.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from data_prep.manifest import import_corpus

    report = import_corpus(corpus.utterances_of(args.source, args.importer, args), args.out, args.max_bad)
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in sorted(report.dropped.items())) or "none"
    print(f"{report.read:,} rows read, {report.kept:,} kept, dropped: {dropped}; {report.seconds / 3600:,.2f} h")
    for utterance in report.first:
        print(f"  {utterance.key}  {utterance.audio}  {utterance.text[:60]}")
    print(f"wrote {args.out}; next: slam-asr prep build {args.out} SHARDS_DIR")
    return 0
