"""The arguments that all commands which start a training share: the recipe, and how it is trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.recipe.arguments import add_recipe

if TYPE_CHECKING:
    from train.recipe.config import Config


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument("--dry-run", action="store_true", help="print what would be started, and start nothing")


def read(args: argparse.Namespace) -> tuple[Config, dict[str, Any]]:
    """The recipe with its overrides, and the DeepSpeed JSON, both checked."""
    from train.recipe.config import load_config
    from train.recipe.deepspeed_json import read_deepspeed_json
    from train.run_folder import require_run_folder

    config = load_config(Path(args.recipe), args.overrides)
    require_run_folder(config)
    return config, read_deepspeed_json(args.deepspeed)
