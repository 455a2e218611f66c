"""`slam-asr recipe`: `new` writes a recipe for given data and models (text.py), `schema` the JSON schema.
Begin with text.py. May import launch.prep, train, data_prep and model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.prep.arguments import local_path
from model.errors import UserError, require_at_least

if TYPE_CHECKING:
    from data_prep.shards.index import ShardIndex
    from launch.recipes.text import Wanted

SPEECH_A_SECOND, BYTES_A_TOKEN, PROMPT_TOKENS = 10, 4, 14
"""Rough speech embeddings a second, bytes of a transcript an LLM token, and tokens of the prompt."""
OF_NEW = """\
Epochs and dropout are chosen by the hours of training data, the learning rate by the width of the LLM: starting points,
which the recipe gives reasons for, with a table of those for 1, 10, 100 and 1,000 hours. All else is left to `auto`."""
OF_SCHEMA = """\
With `# yaml-language-server: $schema=recipe.schema.json` as the first line of a recipe, an editor with a YAML language
server completes, explains and checks its keys."""


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="recipe", required=True, metavar="VERB")
    what = "write a commented recipe that fits given data and models"
    new = verbs.add_parser("new", help=what, description=f"{what.capitalize()}.", epilog=OF_NEW)
    what = "print the JSON schema of recipes, by which an editor completes and checks them"
    schema = verbs.add_parser("schema", help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=OF_SCHEMA)
    add = new.add_argument
    add("--train", action="append", required=True, metavar="DIR", help="shards or features; may be repeated")
    add("--dev", action="append", default=[], metavar="DIR", help="the same, to evaluate on; may be repeated")
    add("--encoder", required=True, metavar="ID", help="speech encoder, Hugging Face id or folder")
    add("--llm", required=True, metavar="ID", help="LLM, Hugging Face id or folder")
    add("--hours", type=float, metavar="H", help="of training data, where --train is not there yet")
    add("--gpus", type=int, default=0, metavar="N", help="have the micro-batches of a step shared evenly by N ranks")
    add("--run-dir", metavar="DIR", help="folder of the run (default: runs/ and the name of --out, or of the LLM)")
    add("--trust-remote-code", action="store_true", help="run code that comes with a model to read its configuration")
    for verb in (new, schema):
        verb.add_argument("--out", type=local_path, metavar="FILE", help="write it there (default: print it)")


def run(args: argparse.Namespace) -> int:
    from data_prep.durable import write_durably

    text = _new(args) if args.recipe == "new" else _schema()
    if args.out is None:
        print(text, end="")
        return 0
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_durably(args.out, text.encode())
    if args.recipe == "new":
        print(f"wrote {args.out}; next: python -m train {args.out}", file=sys.stderr)
    return 0


def _schema() -> str:
    import json

    from train.recipe.config import Config

    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _new(args: argparse.Namespace) -> str:
    from importlib.util import find_spec

    from launch.recipes.text import Wanted, recipe_text
    from model.skeleton import read_config

    if args.gpus:
        require_at_least("--gpus", args.gpus, 1)
    if args.out is not None and args.out.exists():
        raise UserError(f"--out {args.out} is there already; remove it, or give another name")
    indexes = _indexes(args)
    encoder = read_config("encoder", args.encoder, args.trust_remote_code)  # a UserError where it is none
    llm = read_config("LLM", args.llm, args.trust_remote_code)
    width = llm.get_text_config().hidden_size
    run = args.run_dir or f"runs/{args.out.stem if args.out is not None else Path(args.llm).name.removesuffix('.gguf')}"
    wanted = Wanted(
        *(args.train, args.dev, args.encoder, args.llm, width, args.hours or 0.0, run),
        gpus=args.gpus,
        peft=find_spec("peft") is not None,
        takes_lora=_takes_lora(llm, args.trust_remote_code),
    )
    return recipe_text(_measured(wanted, indexes, encoder.model_type) if indexes else wanted)


def _takes_lora(llm: Any, trust_remote_code: bool) -> bool:
    """Whether lora.targets=auto finds layers in an LLM of this configuration; Mamba has no queries and values."""
    import torch
    from transformers import AutoModelForCausalLM

    from model.lora import find_targets

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(llm, trust_remote_code=trust_remote_code)
    try:
        return bool(find_targets(model, ["auto"]))
    except UserError:
        return False


def _indexes(args: argparse.Namespace) -> list[ShardIndex]:
    """Those of the training data; none where data are not there and their hours are given."""
    from data_prep.addresses import is_remote
    from data_prep.shards.opening import read_index

    missing = [path for path in args.train if not is_remote(path) and not Path(path).exists()]
    if missing:
        if args.hours is None:
            raise UserError(f"there is no {missing[0]} to count hours of; build it first, or give --hours H")
        if not args.hours > 0:
            raise UserError(f"--hours is {args.hours:g}, it must be above 0")
        return []
    if args.hours is not None:
        raise UserError("--hours is for data that are not there, and --train is; leave --hours out")
    for path in args.dev:
        read_index(path)  # a UserError where it is none
    return [read_index(path) for path in args.train]


def _measured(wanted: Wanted, indexes: Sequence[ShardIndex], encoder_type: str) -> Wanted:
    """With the hours, the LLM tokens of an epoch and the mean length of these data; features have their own window."""
    from launch.recipes.text import window_of

    seconds, utterances = sum(index.seconds for index in indexes), max(1, sum(map(len, indexes)))
    text = sum(int(index.text_bytes.sum()) for index in indexes) / BYTES_A_TOKEN
    if indexes[0].kind == "features":
        window = "cut" if indexes[0].fingerprint.get("window") == "cut" else None
    else:
        window = window_of(encoder_type, seconds / utterances)
    return replace(
        wanted,
        hours=seconds / 3600,
        epoch_tokens=seconds * SPEECH_A_SECOND + text + PROMPT_TOKENS * utterances,
        mean_seconds=seconds / utterances,
        window=window,
    )
