"""`slam-asr recipe schema`: the JSON schema of a recipe, with the meaning of every key, on stdout or as a file."""

from __future__ import annotations

import argparse
import json

from launch.prep.arguments import local_path

EPILOG = """\
With `# yaml-language-server: $schema=recipe.schema.json` as the first line of a recipe, an editor with a YAML language
server completes, explains and checks its keys."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("--out", type=local_path, metavar="FILE", help="write it there (default: print it)")


def run(args: argparse.Namespace) -> int:
    from data_prep.durable import write_whole
    from train.recipe.config import Config

    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
    text = json.dumps(schema, indent=1, ensure_ascii=False)
    if args.out is None:
        print(text)
    else:
        write_whole(args.out, f"{text}\n".encode())
    return 0
