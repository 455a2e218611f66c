"""Commands of the stages before and after a training, as `slam-asr submit pipeline` and `slam-asr run` start them.

Each is the arguments of `slam-asr`. Its verb parses them here already, so that a mistyped option is refused at once."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import UserError
from train.recipe.arguments import Parser

if TYPE_CHECKING:
    from train.recipe.models import ModelConfig


def build(source: str, out: str, options: Sequence[str]) -> list[str]:
    """Shards of a corpus or a manifest. UserError, naming --build-options, for options that `prep build` lacks."""
    return _checked("build", [source, out, *options], "--build-options")


def features(shards: str, out: str, model: ModelConfig, options: Sequence[str] = ()) -> list[str]:
    """Frames of shards, by a recipe's encoder. UserError, naming --feature-options, likewise."""
    given = ["--encoder", model.encoder, "--dtype", model.dtype_of_encoder, "--yes"]
    given += ["--layer", model.encoder_layer] if model.encoder_layer else []
    given += ["--window", model.encoder_window] if model.encoder_window else []
    given += ["--trust-remote-code"] if model.trust_remote_code else []
    return _checked("features", [shards, out, *given, *options], "--feature-options")


def score(run: str, shards: str, out: str, model: ModelConfig) -> list[str]:
    """Word errors of a run, its models in the dtypes that the recipe gives them: an LLM may fit in few bits alone."""
    dtypes = {"--encoder-dtype": model.encoder_dtype, "--llm-dtype": model.llm_dtype}
    given = [word for flag, dtype in dtypes.items() if dtype for word in (flag, dtype)]
    return ["score", run, shards, "--out", out, *given]


def _checked(verb: str, arguments: list[str], flag: str) -> list[str]:
    from launch.prep import call

    parser = Parser(prog=f"slam-asr prep {verb}")
    call("configure", verb, parser)
    try:
        parser.parse_args(arguments)
    except UserError as error:
        raise UserError(f"{flag}: {error}") from None
    return ["prep", verb, *arguments]


def program(name: str) -> str:
    """The file of a command, first looked for beside our Python. UserError if there is none."""
    if name == "python":
        return sys.executable
    beside = str(Path(sys.executable).parent)
    if path := shutil.which(name, path=beside) or shutil.which(name):
        return path
    raise UserError(f"there is no {name} beside {sys.executable}; install this project with that Python's pip")
