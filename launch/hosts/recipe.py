"""What every launch is told: the recipe, and how it is trained; and the part of `deepspeed`'s command that says it."""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import UserError

if TYPE_CHECKING:
    from train.config import Config

PORTS = range(20000, 32768)
"""Below Linux's own choice for outgoing connections (ip_local_port_range begins at 32768)."""
DEFAULT_PORT = 29500
"""Of torch and of everyone: two launches on a host would meet there."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, help="YAML file, such as recipes/librispeech_tinyllama.yaml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values that replace the recipe's")
    parser.add_argument("--deepspeed", default="zero0", metavar="JSON", help="a file, or a name in ds_configs/ (zero0)")
    parser.add_argument("--allow-changes", action="store_true", help="go on although recipe or data have changed")
    parser.add_argument(
        "--dry-run", action="store_true", help="write what is needed into RUN/launch/, print the command, start nothing"
    )


def checked(args: argparse.Namespace) -> Config:
    """The recipe with its overrides. UserError for a mistake in it or in the DeepSpeed JSON, or if the run is going."""
    import train
    from train.config import load_config
    from train.deepspeed_json import read_deepspeed_json

    config = load_config(args.recipe, args.overrides)
    named = Path(next(iter(train.__path__))).parent / "ds_configs" / f"{args.deepspeed}.json"
    read_deepspeed_json(named if named.exists() else Path(args.deepspeed))
    _refuse_if_going(Path(config.run.dir))
    return config


def training(recipe: Path, args: argparse.Namespace) -> list[str]:
    """What `deepspeed` starts on every rank, and how."""
    command = ["--no_local_rank", "--module", "train", str(recipe), "--deepspeed", args.deepspeed]
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


def _refuse_if_going(run: Path) -> None:
    """A look at the lock that the run's first rank holds: what is going must not get other files under it."""
    try:
        lock = os.open(run / "LOCK", os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 200).decode(errors="replace").strip()
        raise UserError(f"{run} is in use by {holder}; wait for it, or give another run.dir") from None
    except OSError:  # a file system without locks: the run itself will see
        return
    finally:
        os.close(lock)
