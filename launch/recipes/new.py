"""`slam-asr recipe new`: a commented recipe for given data and models, on stdout or as a file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from launch.prep.arguments import local_path
from model.errors import UserError, require_at_least

if TYPE_CHECKING:
    from launch.recipes.text import Wanted

EPILOG = """\
Epochs and dropout are chosen by the hours of training data, the learning rate by the width of the LLM: starting points,
which the recipe gives reasons for, with a table of those for 1, 10, 100 and 1,000 hours. All else is left to `auto`."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    add = parser.add_argument
    add("--train", action="append", required=True, metavar="DIR", help="shards or features; may be repeated")
    add("--dev", action="append", default=[], metavar="DIR", help="the same, to evaluate on; may be repeated")
    add("--encoder", required=True, metavar="ID", help="speech encoder, Hugging Face id or folder")
    add("--llm", required=True, metavar="ID", help="LLM, Hugging Face id or folder")
    add("--hours", type=float, metavar="H", help="of training data, where --train is not there yet")
    add("--gpus", type=int, default=0, metavar="N", help="have the micro-batches of a step shared evenly by N ranks")
    add("--run-dir", metavar="DIR", help="folder of the run (default: runs/ and the name of --out, or of the LLM)")
    add("--trust-remote-code", action="store_true", help="run code that comes with a model to read its configuration")
    add("--out", type=local_path, metavar="FILE", help="write it there (default: print it)")


def run(args: argparse.Namespace) -> int:
    from launch.recipes.text import recipe_text

    if args.gpus:
        require_at_least("--gpus", args.gpus, 1)
    if args.out is not None and args.out.exists():
        raise UserError(f"--out {args.out} is there already; remove it, or give another name")
    text = recipe_text(_wanted(args))
    if args.out is None:
        print(text, end="")
        return 0
    write_recipe(args.out, text)
    print(f"wrote {args.out}; next: python -m train {args.out}", file=sys.stderr)
    return 0


def write_recipe(path: Path, text: str) -> None:
    """The file, whole or not at all, with its folder."""
    from data_prep.durable import write_durably

    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, text.encode())


def _wanted(args: argparse.Namespace) -> Wanted:
    from launch.recipes.text import Wanted
    from model.skeleton import read_config

    hours = _hours(args)
    read_config("encoder", args.encoder, args.trust_remote_code)  # a UserError where it is none
    llm = read_config("LLM", args.llm, args.trust_remote_code)
    name = args.out.stem if args.out is not None else Path(args.llm).name
    return Wanted(
        train=tuple(args.train),
        dev=tuple(args.dev),
        encoder=args.encoder,
        llm=args.llm,
        llm_width=llm.get_text_config().hidden_size,
        hours=hours,
        run=args.run_dir or f"runs/{name}",
        gpus=args.gpus,
    )


def _hours(args: argparse.Namespace) -> float:
    """Of the training data: by its indexes, or as given where one is not there yet."""
    from data_prep.index import read_index
    from data_prep.sources import is_remote

    missing = [path for path in args.train if not is_remote(path) and not Path(path).exists()]
    if missing:
        if args.hours is None:
            raise UserError(f"there is no {missing[0]} to count hours of; build it first, or say --hours H")
        if not args.hours > 0:
            raise UserError(f"--hours is {args.hours:g}, it must be above 0")
        return args.hours
    if args.hours is not None:
        raise UserError("--hours is for data that are not there, and --train is; leave --hours out")
    return sum(read_index(path).seconds for path in args.train) / 3600
