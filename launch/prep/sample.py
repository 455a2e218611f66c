"""`slam-asr prep sample`: a few utterances to listen to."""

from __future__ import annotations

import argparse
from pathlib import Path

from data_prep.figures import counted
from launch.prep.arguments import add_shared, local_folder


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", help="what prep build or prep index made, or its address")
    parser.add_argument("out", type=local_folder, help="folder for the clips, transcripts.tsv and index.html")
    parser.add_argument("-n", "--number", type=int, default=20, metavar="N", help="utterances (20)")
    add_shared(parser, "--seed")
    parser.add_argument("--by", default="", metavar="FIELD", help="let its values take turns: language, speaker ...")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--longest", action="store_true", help="the longest, rather than at random")
    which.add_argument("--shortest", action="store_true", help="the shortest")
    which.add_argument("--keys", type=Path, metavar="FILE", help="these: a key, or a JSON row with one, a line")
    parser.add_argument("--wav", action="store_true", help="as 16-bit WAV, rather than as they lie in the shards")


def run(args: argparse.Namespace) -> int:
    from data_prep.inspect.sample import SampleChoice, write_sample
    from data_prep.rework.subset import read_keys
    from data_prep.shards.opening import read_index

    order = "longest" if args.longest else "shortest" if args.shortest else "random"
    keys = read_keys(args.keys) if args.keys else None
    options = SampleChoice(args.number, args.seed, order, args.by, keys, args.wav)
    clips = write_sample(read_index(args.directory), args.out, options)
    seconds = sum(clip.seconds for clip in clips)
    print(
        f"{args.out}: {counted(len(clips), 'utterance')}, {seconds:,.1f} s; listen to them at {args.out / 'index.html'}"
    )
    return 0
