"""`slam-asr prep publish`: a finished directory to object storage."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, help="what prep build, features, merge ... made")
    parser.add_argument("address", help="s3://bucket/folder or gs://bucket/folder")


def run(args: argparse.Namespace) -> int:
    from data_prep.index import read_index
    from data_prep.remote.publish import publish_directory
    from data_prep.remote.retries import say_retries

    address = args.address.rstrip("/")
    copied, total = publish_directory(args.directory, address), len(read_index(args.directory).shards)
    print(f"{address}: {total:,} shards, {total - copied:,} of them were there before")
    say_retries()
    return 0
