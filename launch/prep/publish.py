"""`slam-asr prep publish`: a finished directory to object storage."""

from __future__ import annotations

import argparse

from launch.prep.arguments import local_folder


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=local_folder, help="what prep build, features, merge ... made")
    parser.add_argument("address", help="s3://bucket/folder or gs://bucket/folder")


def run(args: argparse.Namespace) -> int:
    from data_prep.figures import counted
    from data_prep.rework.upload import publish_directory
    from data_prep.shards.opening import read_index

    address = args.address.rstrip("/")
    copied, total = publish_directory(args.directory, address), len(read_index(args.directory).shards)
    print(f"{address}: {counted(total, 'shard')}, {total - copied:,} there before")
    return 0
