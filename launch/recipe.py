"""What every way to start a training is told: the recipe, and how it is trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.recipe.config import Config


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file, such as recipes/librispeech_tinyllama.yaml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values that replace the recipe's")
    parser.add_argument("--deepspeed", default="zero0", metavar="JSON", help="a file, or a name in ds_configs/ (zero0)")
    parser.add_argument("--allow-changes", action="store_true", help="go on although recipe or data have changed")
    parser.add_argument("--dry-run", action="store_true", help="print what would be started, and start nothing")


def read(args: argparse.Namespace) -> tuple[Config, dict[str, Any]]:
    """The recipe with its overrides, and the DeepSpeed JSON, both checked."""
    from train.recipe.config import load_config
    from train.recipe.deepspeed_json import find_deepspeed_json, read_deepspeed_json
    from train.run_folder import require_run_folder

    config = load_config(Path(args.recipe), args.overrides)
    require_run_folder(config)
    return config, read_deepspeed_json(find_deepspeed_json(args.deepspeed))
