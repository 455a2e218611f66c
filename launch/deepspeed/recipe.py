"""What is to be trained, and the part of `deepspeed`'s command that says it."""

from __future__ import annotations

import argparse
import random
import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from launch import recipe
from model.errors import UserError
from train.dist.lock import holder, in_use

if TYPE_CHECKING:
    from train.recipe.config import Config

PORTS = range(20000, 32768)
"""Below Linux's own choice for outgoing connections (ip_local_port_range begins at 32768)."""
DEFAULT_PORT = 29500
"""Of torch and of everyone: two launches on a host would meet there."""


def checked(args: argparse.Namespace) -> Config:
    """The recipe with its overrides. UserError for a mistake in it or in the DeepSpeed JSON, or if the run is going:
    what is going must not get other files under it."""
    config, _ = recipe.read(args)
    run = Path(config.run.dir)
    if by := holder(run):
        raise in_use(run, by)
    return config


def training(file: Path, args: argparse.Namespace) -> list[str]:
    """What `deepspeed` starts on every rank, and how."""
    command = ["--no_local_rank", "--module", "train", str(file), "--deepspeed", args.deepspeed]
    return command + (["--allow-changes"] if args.allow_changes else [])


def deepspeed() -> str:
    """The command, beside our Python. UserError if it is not there."""
    beside = Path(sys.executable).parent / "deepspeed"
    found = str(beside) if beside.exists() else shutil.which("deepspeed")
    if not found:
        raise UserError(f"there is no deepspeed beside {sys.executable}; install this project with that Python's pip")
    return found


def free_port() -> int:
    """A port that nobody listens on here."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        if port != DEFAULT_PORT:
            return port
    raise UserError(f"no free port from {PORTS.start} to {PORTS.stop - 1} found; give --master-port")


def port(text: str) -> int:
    """An argument that is a port."""
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port from 1 to 65535")
    return int(text)
