"""The command line of `python -m train`, and what is said of switches that are keys of a recipe here."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from model.errors import UserError, hint

EXAMPLE = "recipes/librispeech_tinyllama.yaml"
SWITCHES = {  # of other trainers: the key here
    "adam_epsilon": "optim.eps",
    "adapter": "model.adapter.type",
    "bf16": "model.dtype",
    "batch_size": "batch.tokens",
    "dev_data": "data.dev",
    "fp16": "model.dtype",
    "eval_steps": "eval.every_steps",
    "gradient_accumulation_steps": "batch.micro_batches",
    "grad_clip": "optim.clip",
    "learning_rate": "optim.lr",
    "logging_steps": "log.every_steps",
    "lr_scheduler_type": "optim.schedule",
    "max_grad_norm": "optim.clip",
    "num_epochs": "optim.epochs",
    "num_train_epochs": "optim.epochs",
    "num_workers": "data.reader_threads",
    "output_dir": "run.dir",
    "per_device_train_batch_size": "batch.tokens",
    "save_steps": "save.every_steps",
    "train_data": "data.train",
}
COUNTED_OTHERWISE = {
    "batch.tokens": "N, LLM tokens a micro-batch",
    "batch.micro_batches": "N, micro-batches a step over all ranks together",
    "model.dtype": "bfloat16, float16 or float32",
}
"""Keys that do not take the value of the switch."""


class TrainParser(argparse.ArgumentParser):
    """Raises UserError where argparse would print its usage and exit; options are not abbreviated."""

    def __init__(self) -> None:
        description = "Train the adapter of a recipe; the same command resumes."
        super().__init__(prog="python -m train", description=description, allow_abbrev=False)
        self.add_argument("recipe", help=f"YAML file, such as {EXAMPLE}")
        self.add_argument("overrides", nargs="*", metavar="section.key=value", help="values that replace the recipe's")
        self.add_argument(
            "--deepspeed", default="zero0", metavar="JSON", help="a file, or a name in ds_configs/ (default: zero0)"
        )
        self.add_argument(
            "--allow-changes", action="store_true", help="go on with a run although its recipe or data have changed"
        )
        # The deepspeed launcher gives this one; the environment says it too.
        self.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The arguments, overrides among options or not. UserError, one line, for what is none."""
        args, rest = self.parse_known_intermixed_args(arguments)
        if unknown := next((item for item in rest if item.startswith("-")), ""):
            options = [name for action in self._actions for name in action.option_strings]
            raise UserError(no_option(self.prog, unknown, options, arguments))
        return args

    def error(self, message: str) -> NoReturn:
        raise UserError(without_recipe(self, message) or f"{message}; `{self.prog} --help` says more")


def without_recipe(parser: argparse.ArgumentParser, message: str) -> str:
    """What to say where argparse's `message` is that the recipe is missing; "" where it is another."""
    _, required, names = message.partition("arguments are required: ")
    if not required or "recipe" not in names.lower().split(", "):
        return ""
    before = [action for action in parser._actions if not action.option_strings and action.dest != "overrides"]
    command = " ".join([parser.prog, *("RECIPE.yaml" if a.dest == "recipe" else a.dest.upper() for a in before)])
    return f"no recipe is given; write `{command}`, {EXAMPLE} is one"


def no_option(command: str, unknown: str, options: Sequence[str], arguments: Sequence[str]) -> str:
    """What to say of an `unknown` option among `arguments`; of one that is a key of the recipe how that is written."""
    name = unknown.partition("=")[0]
    said = f"{name} is no option of `{command}`"
    keys = _keys_of(name)
    if not keys:
        return said + hint(name, options)
    given = _value_of(unknown, arguments)
    written = " or ".join(f"{key}={COUNTED_OTHERWISE.get(key) or given or '...'}" for key in keys)
    return f"{said}; it is a key of the recipe, written {written}"


def _keys_of(option: str) -> list[str]:
    """The keys of a recipe that an option names: by its last part, as a whole, or as other trainers call it."""
    from train.recipe.config import Config
    from train.recipe.fields import dotted_names

    name = re.sub("[-.]", "_", option.lstrip("-")).lower()
    keys = list(dotted_names(Config))
    whole = [key for key in keys if key.replace(".", "_") == name]
    last = [key for key in keys if key.rpartition(".")[2] == name]
    return whole or last or ([SWITCHES[name]] if name in SWITCHES else [])


def _value_of(unknown: str, arguments: Sequence[str]) -> str:
    _, equals, value = unknown.partition("=")
    if equals:
        return value
    after = arguments[arguments.index(unknown) + 1 :] if unknown in arguments else []
    return after[0] if after and "=" not in after[0] and not after[0].startswith("--") else ""
