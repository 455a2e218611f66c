"""`slam-asr prep build`, `index`, `reshard` and `merge`: what writes a shard directory."""

import argparse
from pathlib import Path
from typing import Any

from data_prep.importers import IMPORTERS
from launch.prep import corpus
from launch.prep.arguments import (
    add_shared,
    listed,
    local_folder,
    local_path,
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
COPIED_ALREADY = "already holds just this"


def configure_build(parser: argparse.ArgumentParser) -> None:
    from data_prep.text import NORMALISERS

    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, SOURCES
    add = parser.add_argument
    add("source", type=path_or_address, help="a corpus folder, a manifest, or the address of a manifest (s3://...)")
    add("out", type=local_folder, help="directory of the shards; `prep publish` copies it to an address")
    add("--importer", choices=tuple(IMPORTERS), help="default: by what SOURCE is")
    _add_shard_options(parser)
    add("--split", default="", metavar="A=0.9,B=0.1", help="build OUT/A and OUT/B of so much of the corpus")
    add("--split-by", default="speaker", metavar="UNIT", help=SPLIT_HELP)
    add("--format", default="flac", metavar="FORMAT", help=FORMAT_HELP)
    text, known = parser.add_mutually_exclusive_group(), ", ".join(("none", *NORMALISERS))
    text.add_argument("--normalise", default="none", metavar="NAME", help=f"spelling of transcripts: {known} (none)")
    text.add_argument("--lowercase", action="store_true", help="short for --normalise lowercase")
    add("--max-seconds", type=float, default=3600.0, metavar="S", help="drop longer ones (3600)")
    add("--trim-silence", type=float, metavar="DB", help="cut ends that are DB quieter than the loudest moment")
    add_shared(parser, "--verify", "--no-verify")
    corpus.add_arguments(parser)


def run_build(args: argparse.Namespace) -> int:
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
        allow_empty=args.allow_empty,
    )
    options = BuildOptions(**_shard_options(args), max_bad=args.max_bad, limits=limits)
    require_another(args.source, args.out)
    fractions = parse_fractions(args.split) if args.split else {}
    require_known("split by", args.split_by, SPLIT_BY)
    utterances = corpus.utterances_of(args.source, args.importer, args)
    if fractions:
        parts = build_parts(utterances, args.out, options, fractions, args.split_by)
    else:
        parts = {"": build(utterances, args.out, options)}
    for name, totals in parts.items():
        print_totals(args.out / name, totals, "is already built from this input with these options")
    if fractions:
        seconds, number = (sum(getattr(part, what) for part in parts.values()) for what in ("seconds", "utterances"))
        for name, part in parts.items():
            share = f"{part.utterances / number:.1%} of the utterances, {part.seconds / seconds:.1%} of the hours"
            print(f"{name}: {share}; {fractions[name]:.1%} asked for")
    return 0


def configure_index(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("tars", type=local_path, nargs="+", metavar="TARS", help="tars, or folders of them; none is written to")
    add("out", type=local_folder, help="directory of the index")
    add("--text-field", default="", metavar="NAME", help="field of .json that is the transcript")
    add("--text-extension", default="txt", metavar="EXT", help="of the transcript's own member (txt)")
    add("--prefix-shard", action="store_true", help="put the tar's name in front of each key")
    add("--normalise", "--normalize", default="none", metavar="NAME", help="of transcripts, as in prep build (none)")
    add_shared(parser, "--verify", "--no-verify", "--allow-empty", "--workers", "--max-bad", "--overwrite")


def run_index(args: argparse.Namespace) -> int:
    from data_prep.build.in_place import ForeignOptions, index_in_place
    from data_prep.importers.webdataset import SampleOptions

    samples = SampleOptions(args.text_field, args.text_extension.lstrip(".").lower(), args.prefix_shard)
    options = ForeignOptions(
        samples=samples,
        normalise=args.normalise,
        verify=args.verify == "full",
        allow_empty=args.allow_empty,
        workers=args.workers,
        max_bad=args.max_bad,
        overwrite=args.overwrite,
    )
    totals = index_in_place(args.tars, args.out, options)
    print_totals(args.out, totals, "already indexes these tars with these options", "tar")
    if totals.unused:
        print(f"members that are not used, not opened: {listed(totals.unused)}")
    return 0


def configure_reshard(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("out", type=local_folder, help="directory of the new shards")
    add("directories", nargs="+", metavar="DIR", help="what prep made, of one kind, or its address")
    _add_shard_options(parser)
    add("--keys", type=Path, metavar="FILE", help="keep these: a key, or a JSON row with one, a line")
    add("--drop-keys", type=Path, metavar="FILE", help="drop these")
    add("--max-seconds", type=float, default=float("inf"), metavar="S", help="drop longer ones")
    add("--where", action="append", default=[], metavar="F=V", help="keep where field F is V; repeats")


def run_reshard(args: argparse.Namespace) -> int:
    from data_prep.rework.copying import ReshardOptions, reshard
    from data_prep.rework.subset import Subset, parse_where, read_keys

    subset = Subset(
        keys=read_keys(args.keys) if args.keys else None,
        drop_keys=read_keys(args.drop_keys) if args.drop_keys else frozenset(),
        min_seconds=args.min_seconds,
        max_seconds=args.max_seconds,
        where=parse_where(args.where),
    )
    totals = reshard(args.directories, args.out, ReshardOptions(**_shard_options(args), subset=subset))
    print_totals(args.out, totals, COPIED_ALREADY)
    return 0


def configure_merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=local_folder, help="directory of the merged shards")
    parser.add_argument("directories", nargs="+", metavar="DIR", help="what prep made, of one kind, or its address")
    parser.add_argument("--copy", action="store_true", help="copy tars also where links would do")
    parser.add_argument("--prefix-keys", metavar="NAME,NAME", help="one for each DIR, before its keys: NAME_KEY")
    add_shared(parser, "--workers", "--overwrite")


def run_merge(args: argparse.Namespace) -> int:
    from data_prep.rework.copying import merge

    prefixes = None if args.prefix_keys is None else args.prefix_keys.split(",")
    totals = merge(args.directories, args.out, args.copy, prefixes, args.workers, args.overwrite)
    print_totals(args.out, totals, COPIED_ALREADY)
    return 0


def _add_shard_options(parser: argparse.ArgumentParser) -> None:
    """Options of build and reshard: how large shards are, in which order, and how they are written."""
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--shard-size", type=int, default=1000, metavar="N", help="utterances a shard (1000)")
    size.add_argument("--shard-bytes", default="", metavar="500MB", help="about so much a shard, in place of N")
    orders = "random, stratified, sorted or none (random)"
    parser.add_argument("--shuffle", default="random", metavar="ORDER", help=orders)
    add_shared(parser, "--min-seconds", "--seed", "--workers", "--overwrite")


def _shard_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("shard_size", "shuffle", "seed", "workers", "overwrite")
    return {"shard_bytes": parse_bytes(args.shard_bytes), **{name: getattr(args, name) for name in names}}
