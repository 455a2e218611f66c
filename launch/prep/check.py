"""`slam-asr prep check`: whether a directory holds what its index says, and what a person should look at in it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from launch.prep.arguments import cores
from model.errors import UserError, require_at_least


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", help="what prep build, prep features or prep index made, or its address")
    shared = "directories that should share no words, recordings or speakers with it: its test sets"
    parser.add_argument("--against", nargs="+", action="extend", default=[], metavar="OTHER_DIR", help=shared)
    parser.add_argument("--quick", action="store_true", help="decode nothing: hashes, metadata and the index alone")
    parser.add_argument("--full", action="store_true", help="let webdataset read all shards, not 4 of them alone")
    parser.add_argument("--strict", action="store_true", help="exit with 1 for a warning too, not for a problem alone")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the audit as a page to look at")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all its numbers")
    parser.add_argument(
        "--flagged",
        type=Path,
        metavar="FILE",
        help="list the utterances found, for sample --keys and reshard --drop-keys",
    )
    parser.add_argument("--workers", type=int, default=cores(), metavar="N", help="processes (all cores)")
    parser.add_argument("--max-problems", type=int, default=50, metavar="N", help="problems that are printed (50)")


def run(args: argparse.Namespace) -> int:
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
