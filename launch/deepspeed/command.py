"""The `deepspeed` command that starts the ranks."""

import argparse
import random
import shutil
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from launch import recipe
from model.errors import UserError
from train.dist.lock import holder, in_use

if TYPE_CHECKING:
    from train.recipe.config import Config


def read_recipe(args: argparse.Namespace) -> "Config":
    """The recipe with its overrides. UserError for a mistake in it or in the DeepSpeed JSON, or if the run is going."""
    config, _ = recipe.read(args)
    if by := holder(Path(config.run.dir)):
        raise in_use(Path(config.run.dir), by)
    return config


def command(args: argparse.Namespace, config: "Config", *options: str) -> list[str]:
    """Writes RUN/launch/recipe.yaml, as overrides may not survive a remote shell, and returns the command."""
    from train.recipe.identity import to_yaml
    from train.run_folder import write_file

    beside = Path(sys.executable).with_name("deepspeed")
    program = str(beside) if beside.exists() else shutil.which("deepspeed")
    if program is None:
        raise UserError(f"there is no deepspeed beside {sys.executable}; install this project with that Python's pip")
    file = Path(config.run.dir) / "launch" / "recipe.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, to_yaml(config).encode())
    port = args.master_port or _free_port()
    training = ["--no_local_rank", "--module", "train", str(file), "--deepspeed", args.deepspeed]
    changes = ["--allow-changes"] if args.allow_changes else []
    return [program, *options, "--master_port", str(port), *training, *changes]


def _free_port() -> int:
    """A free port of this host: below torch's default, 29500, and those that Linux gives to outgoing connections."""
    while True:
        number = random.SystemRandom().randrange(20000, 29500)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("", number))
            return number


def port(text: str) -> int:
    """An argument that is a port."""
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port from 1 to 65535")
    return int(text)
