"""What `prep import` and `prep build` ask about a corpus, and the utterances that it then gives."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from data_prep.importers import IMPORTERS, ImportOptions, guess_importer
from data_prep.utterance import Utterance


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-bad", type=float, default=0.01, metavar="F", help="fraction that may be bad (0.01)")
    parser.add_argument("--allow-outside", action="store_true", help="relative paths may leave the manifest's folder")


def utterances_of(source: Path, importer: str | None, args: argparse.Namespace) -> Iterator[Utterance]:
    """By the importer named, or the one that recognises the source."""
    return IMPORTERS[importer or guess_importer(source)].read(source, ImportOptions(allow_outside=args.allow_outside))


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
