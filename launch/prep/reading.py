"""`slam-asr prep check`, `stats`, `sample`, `export` and `publish`: what reads a finished shard directory."""

import argparse
import os
from pathlib import Path

from data_prep.exporters import EXPORTERS, export
from data_prep.figures import in_hours
from data_prep.shards.opening import read_index
from launch.prep.arguments import add_shared, local_folder
from model.errors import UserError, counted, require_at_least

DIRECTORY_HELP = "what prep build, prep features or prep index made, or its address"
KEYS_HELP = "these: a key, or a JSON row with one, a line"


def configure_check(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("directory", help=DIRECTORY_HELP)
    shared = "directories that should share no words, recordings or speakers with it: its test sets"
    add("--against", nargs="+", action="extend", default=[], metavar="OTHER_DIR", help=shared)
    add("--quick", action="store_true", help="decode nothing: hashes, metadata and the index alone")
    add("--full", action="store_true", help="let webdataset read all shards, not 4 of them alone")
    add("--strict", action="store_true", help="exit with 1 for a warning too, not for a problem alone")
    add("--html", type=Path, metavar="FILE", help="write the audit as a page to look at")
    add("--json", type=Path, metavar="FILE", help="write all its numbers")
    flagged = "list the utterances found, for sample --keys and reshard --drop-keys"
    add("--flagged", type=Path, metavar="FILE", help=flagged)
    add_shared(parser, "--workers")
    add("--max-problems", type=int, default=50, metavar="N", help="problems that are printed (50)")


def run_check(args: argparse.Namespace) -> int:
    require_at_least("--max-problems", args.max_problems, 0)
    for path in (args.html, args.json, args.flagged):
        _require_writable(path)  # before the long work
    from dataclasses import asdict

    from data_prep.durable import canonical_json, write_durably
    from data_prep.inspect.audit.audit import audit
    from data_prep.inspect.audit.report import page, summary
    from data_prep.inspect.check import CheckOptions

    options = CheckOptions(args.workers, args.quick, args.full)
    result = audit(args.directory, options, tuple(args.against), args.flagged)
    print(summary(result, args.max_problems))
    if args.html:
        write_durably(args.html, page(result, args.max_problems).encode())
    if args.json:
        write_durably(args.json, canonical_json(asdict(result), indent=1) + b"\n")
    return 1 if result.problems or (args.strict and result.raised) else 0


def _require_writable(path: Path | None) -> None:
    if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise UserError(f"cannot write {path}; give the path of a file in a folder that is there")


def configure_stats(parser: argparse.ArgumentParser) -> None:
    by = "hours of each, from the metadata in the shards"
    parser.add_argument("directory", help=DIRECTORY_HELP)
    parser.add_argument("--by", action="append", choices=("language", "speaker"), help=by)


def run_stats(args: argparse.Namespace) -> int:
    from data_prep.inspect.stats import table, table_by

    index = read_index(args.directory)
    print(table(index))
    for name in dict.fromkeys(args.by or ()):
        print(f"\n{table_by(index, name)}")
    return 0


def configure_sample(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", help="what prep build or prep index made, or its address")
    parser.add_argument("out", type=local_folder, help="folder for the clips, transcripts.tsv and index.html")
    parser.add_argument("-n", "--number", type=int, default=20, metavar="N", help="utterances (20)")
    add_shared(parser, "--seed")
    parser.add_argument("--by", default="", metavar="FIELD", help="let its values take turns: language, speaker ...")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--longest", action="store_true", help="the longest, rather than at random")
    which.add_argument("--shortest", action="store_true", help="the shortest")
    which.add_argument("--keys", type=Path, metavar="FILE", help=KEYS_HELP)
    parser.add_argument("--wav", action="store_true", help="as 16-bit WAV, rather than as they lie in the shards")


def run_sample(args: argparse.Namespace) -> int:
    from data_prep.inspect.sample import SampleChoice, write_sample
    from data_prep.rework.subset import read_keys

    order = "longest" if args.longest else "shortest" if args.shortest else "random"
    keys = read_keys(args.keys) if args.keys else None
    choice = SampleChoice(args.number, args.seed, order, args.by, keys, args.wav)
    clips = write_sample(read_index(args.directory), args.out, choice)
    held = f"{counted(len(clips), 'utterance')}, {sum(clip.seconds for clip in clips):,.1f} s"
    print(f"{args.out}: {held}; listen to them at {args.out / 'index.html'}")
    return 0


def configure_export(parser: argparse.ArgumentParser) -> None:
    kinds = "; ".join(f"{kind}: {what}" for kind, what in EXPORTERS.items())
    parser.add_argument("dataset", help="a directory that prep build made, or its address")
    parser.add_argument("out", type=local_folder, help="folder to write to; empty, or not there yet")
    parser.add_argument("--format", required=True, choices=tuple(EXPORTERS), metavar="FORMAT", help=kinds)
    parser.add_argument("--wav", action="store_true", help="16-bit WAV, for tools that cannot read FLAC")


def run_export(args: argparse.Namespace) -> int:
    index = read_index(args.dataset)
    written = export(index, args.out, args.format, args.wav)
    print(f"{written}: {counted(len(index), 'utterance')}, {in_hours(index.seconds)}")
    return 0


def configure_publish(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=local_folder, help="what prep build, features, merge ... made")
    parser.add_argument("address", help="s3://bucket/folder or gs://bucket/folder")


def run_publish(args: argparse.Namespace) -> int:
    from data_prep.rework.upload import publish_directory

    address = args.address.rstrip("/")
    copied, total = publish_directory(args.directory, address), len(read_index(args.directory).shards)
    print(f"{address}: {counted(total, 'shard')}, {total - copied:,} there before")
    return 0
