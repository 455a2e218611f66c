"""`slam-asr prep synth`: a corpus to try things on."""

from __future__ import annotations

import argparse

from data_prep.figures import counted
from launch.prep.arguments import add_shared, local_folder

SYNTH_SPLITS = {"train": 3000, "dev": 64, "test": 200, "hard": 100}


def configure(parser: argparse.ArgumentParser) -> None:
    numbers = ", ".join(f"{split} {number:,}" for split, number in SYNTH_SPLITS.items())
    parser.add_argument("out", type=local_folder, help="folder to write SPLIT.jsonl and SPLIT/audio/*.flac to")
    parser.add_argument("--split", default="all", choices=(*SYNTH_SPLITS, "all"), help="which voices (all four)")
    parser.add_argument("--utterances", type=int, metavar="N", help=f"sentences a split ({numbers})")
    add_shared(parser, "--seed", "--workers")


def run(args: argparse.Namespace) -> int:
    from data_prep.synth.corpus import write_corpus

    for split, number in SYNTH_SPLITS.items():
        if args.split in (split, "all"):
            number = number if args.utterances is None else args.utterances
            manifest = write_corpus(args.out, split, number, args.seed, args.workers)
            print(f"{manifest}: {counted(number, 'utterance')}")
    return 0
