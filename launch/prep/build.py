"""`slam-asr prep build`: a corpus or a manifest to shards."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.figures import counted, in_hours
from data_prep.importers import IMPORTERS
from data_prep.refusals import DROPPED, QUARANTINE
from data_prep.retries import say_retries
from launch.prep import corpus
from launch.prep.arguments import cores, local_folder, parse_bytes, path_or_address, require_another
from model.errors import require_known

if TYPE_CHECKING:
    from data_prep.build.build import BuildOptions, Totals

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
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, SOURCES
    add = parser.add_argument
    add("source", type=path_or_address, help="a corpus folder, a manifest, or the address of a manifest (s3://...)")
    add("out", type=local_folder, help="directory of the shards; `prep publish` copies it to an address")
    add("--importer", choices=tuple(IMPORTERS), help="default: by what SOURCE is")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--shard-size", type=int, default=1000, metavar="N", help="utterances a shard (1000)")
    size.add_argument("--shard-bytes", default="", metavar="500MB", help="about so much a shard, in place of N")
    add("--shuffle", default="random", metavar="ORDER", help="random, stratified, sorted or none (random)")
    add("--seed", type=int, default=0, help="of the shuffle and of the split (0)")
    add("--split", default="", metavar="A=0.9,B=0.1", help="build OUT/A and OUT/B of so much of the corpus")
    add("--split-by", default="speaker", metavar="UNIT", help=SPLIT_HELP)
    add("--workers", type=int, default=cores(), metavar="N", help="processes (all cores)")
    add("--format", default="flac", metavar="FORMAT", help=FORMAT_HELP)
    text = parser.add_mutually_exclusive_group()
    text.add_argument("--normalise", default="none", metavar="NAME", help=_normalisers())
    text.add_argument("--lowercase", action="store_true", help="short for --normalise lowercase")
    add("--min-seconds", type=float, default=0.0, metavar="S", help="drop shorter utterances")
    add("--max-seconds", type=float, default=3600.0, metavar="S", help="drop longer ones (3600)")
    add("--trim-silence", type=float, metavar="DB", help="cut ends that are DB quieter than the loudest moment")
    add("--verify", choices=("full", "header"), default="full", help="of audio copied as it is, decode all (full)")
    add("--no-verify", action="store_const", const="header", dest="verify", help="short for --verify header")
    add("--overwrite", action="store_true", help="replace what other input or options made")
    corpus.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from data_prep.build.build import BuildOptions
    from data_prep.build.prepare import Limits

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
    _build(args, args.out, options)
    say_retries()
    return 0


def _build(args: argparse.Namespace, out: Path, options: BuildOptions) -> None:
    from data_prep.build.build import build
    from data_prep.build.split import SPLIT_BY, build_parts, parse_fractions

    fractions = parse_fractions(args.split) if args.split else {}
    require_known("split by", args.split_by, SPLIT_BY)
    utterances = corpus.utterances_of(args.source, args.importer, args)
    if not fractions:
        _say(args.out, build(utterances, out, options))
        return
    parts = build_parts(utterances, out, options, fractions, args.split_by)
    for name, totals in parts.items():
        _say(f"{args.out}/{name}", totals)
    _say_fractions(parts, fractions)


def _normalisers() -> str:
    from data_prep.text import NORMALISERS

    return f"spelling of transcripts: {', '.join(NORMALISERS)} (none)"


def _say(out: Path | str, totals: Totals) -> None:
    if totals.already_built:
        print(f"{out} is already built from this input with these options; nothing done")
    if totals.kept_shards:
        print(f"of {counted(totals.shards, 'shard')}, {totals.kept_shards:,} finished before and kept")
    print(
        f"{out}: {counted(totals.utterances, 'utterance')}, {in_hours(totals.seconds)}, "
        f"{counted(totals.shards, 'shard')}, {totals.bytes / 1e6:,.1f} MB"
        f"{_reasons('bad', QUARANTINE, totals.bad)}{_reasons('dropped', DROPPED, totals.dropped)}"
    )


def _say_fractions(parts: dict, fractions: dict[str, float]) -> None:
    hours, utterances = (sum(getattr(part, name) for part in parts.values()) for name in ("seconds", "utterances"))
    for name, part in parts.items():
        share = f"{part.utterances / utterances:.1%} of the utterances, {part.seconds / hours:.1%} of the hours"
        print(f"{name}: {share}; {fractions[name]:.1%} asked for")


def _reasons(name: str, file: str, counts: dict[str, int]) -> str:
    listed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items()))
    return f"; {name}: {listed} (see {file})" if listed else ""
