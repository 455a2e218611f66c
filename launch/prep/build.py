"""`slam-asr prep build`: a corpus or a manifest to shards."""

from __future__ import annotations

import argparse

from data_prep.importers import IMPORTERS
from launch.prep import corpus
from launch.prep.arguments import (
    add_shard_size,
    add_shared,
    local_folder,
    parse_bytes,
    path_or_address,
    print_totals,
    require_another,
)
from model.errors import require_known

SOURCES = """\
SOURCE may be, among others (slam-asr prep import --help lists all):
  a folder of recordings with a transcript beside each: a.wav, a.txt
  a folder of recordings and one table of them, as metadata.csv
  a table, corpus/train.csv, whose first line names its columns: file,text or file,text,speaker
  a manifest of JSON lines: {"audio": "a.wav", "text": "some words"}"""
FORMAT_HELP = "of the audio: flac; or opus, lossy, a fifth in size, made at 25 to 50 times real time a core (flac)"
SPLIT_HELP = (
    "speaker: none is in two parts; hash: by key; both by a hash, so that nothing moves when utterances are added; "
    "balanced: as near to the fractions as whole speakers allow, no part empty, for few speakers; by key where fewer "
    "than 3 are named (speaker)"
)


def configure(parser: argparse.ArgumentParser) -> None:
    from data_prep.text import NORMALISERS

    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, SOURCES
    add = parser.add_argument
    add("source", type=path_or_address, help="a corpus folder, a manifest, or the address of a manifest (s3://...)")
    add("out", type=local_folder, help="directory of the shards; `prep publish` copies it to an address")
    add("--importer", choices=tuple(IMPORTERS), help="default: by what SOURCE is")
    add_shard_size(parser)
    add("--split", default="", metavar="A=0.9,B=0.1", help="build OUT/A and OUT/B of so much of the corpus")
    add("--split-by", default="speaker", metavar="UNIT", help=SPLIT_HELP)
    add("--format", default="flac", metavar="FORMAT", help=FORMAT_HELP)
    text, known = parser.add_mutually_exclusive_group(), ", ".join(NORMALISERS)
    text.add_argument("--normalise", default="none", metavar="NAME", help=f"spelling of transcripts: {known} (none)")
    text.add_argument("--lowercase", action="store_true", help="short for --normalise lowercase")
    add("--max-seconds", type=float, default=3600.0, metavar="S", help="drop longer ones (3600)")
    add("--trim-silence", type=float, metavar="DB", help="cut ends that are DB quieter than the loudest moment")
    add_shared(parser, "--min-seconds", "--seed", "--workers", "--verify", "--no-verify", "--overwrite")
    corpus.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from data_prep.build.build import BuildOptions, build
    from data_prep.build.prepare import Limits
    from data_prep.build.split import SPLIT_BY, build_parts, parse_fractions

    limits = Limits(
        normalise="lowercase" if args.lowercase else args.normalise,
        min_seconds=args.min_seconds,
        max_seconds=args.max_seconds,
        verify=args.verify == "full",
        allow_pipes=args.allow_pipes,
        media=args.format,
        trim_silence=args.trim_silence,
    )
    options = BuildOptions(
        shard_size=args.shard_size,
        shard_bytes=parse_bytes(args.shard_bytes),
        shuffle=args.shuffle,
        seed=args.seed,
        workers=args.workers,
        max_bad=args.max_bad,
        overwrite=args.overwrite,
        limits=limits,
    )
    require_another(args.source, args.out)
    fractions = parse_fractions(args.split) if args.split else {}
    require_known("split by", args.split_by, SPLIT_BY)
    utterances = corpus.utterances_of(args.source, args.importer, args)
    if fractions:
        parts = build_parts(utterances, args.out, options, fractions, args.split_by)
    else:
        parts = {"": build(utterances, args.out, options)}
    for name, totals in parts.items():
        already = "is already built from this input with these options" if totals.already_built else ""
        print_totals(args.out / name, totals, already)
    if fractions:
        seconds, number = (sum(getattr(part, what) for part in parts.values()) for what in ("seconds", "utterances"))
        for name, part in parts.items():
            share = f"{part.utterances / number:.1%} of the utterances, {part.seconds / seconds:.1%} of the hours"
            print(f"{name}: {share}; {fractions[name]:.1%} asked for")
    return 0
