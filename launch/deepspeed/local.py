"""`slam-asr launch local`: training on this host, by `deepspeed`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from pathlib import Path

from data_prep.figures import counted
from launch.deepspeed import recipe
from launch.deepspeed.running import Launch, carry_out, new_mark, show
from launch.deepspeed.written import write_recipe
from launch.recipe import configure as configure_recipe
from model.errors import UserError

NO_HOSTFILE = "/dev/null"
"""deepspeed would otherwise read /job/hostfile, where there is one, and go to its hosts."""


def configure(parser: argparse.ArgumentParser) -> None:
    configure_recipe(parser)
    parser.add_argument("--ranks", type=int, help="processes (default: one a GPU; one without)")
    parser.add_argument("--master-port", type=recipe.port, help="where the ranks meet (default: a free one)")


def run(args: argparse.Namespace) -> int:
    chosen = _devices(args.ranks)
    config = recipe.checked(args)
    command = [recipe.deepspeed(), "--hostfile", NO_HOSTFILE, *chosen]
    command += ["--master_port", str(args.master_port or recipe.free_port())]
    launch = Launch(
        command + recipe.training(write_recipe(config), args),
        mark := new_mark(),
        Path(config.run.dir),
        sets={"SLAM_ASR_LAUNCH": mark},
        unsets=("CUDA_VISIBLE_DEVICES",) if chosen[0] == "--include" else (),
    )
    show(launch)
    return 0 if args.dry_run else carry_out(launch)


def _devices(ranks: int | None) -> list[str]:
    """The options that say on which devices so many ranks run.

    Of CUDA_VISIBLE_DEVICES deepspeed would make nothing, and take the first GPUs of the host, when told a number.
    """
    if ranks is not None and ranks < 1:
        raise UserError(f"--ranks is {ranks}, it must be at least 1")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    if not visible or os.environ.get("DS_ACCELERATOR") == "cpu":
        there = 0 if "CUDA_VISIBLE_DEVICES" in os.environ else gpus()
        if ranks and ranks > there > 0 and os.environ.get("DS_ACCELERATOR") != "cpu":
            raise UserError(f"--ranks is {ranks}, this host has {counted(there, 'GPU')}; start at most one rank a GPU")
        return ["--num_accelerators", str(ranks or there or 1)]
    numbers = [number.strip() for number in visible.split(",")]
    if not all(number.isdecimal() for number in numbers):
        raise UserError(
            f"CUDA_VISIBLE_DEVICES is {visible!r}, deepspeed takes numbers only; give numbers as `nvidia-smi -L` has "
            "them, or start with torchrun"
        )
    if ranks and ranks > len(numbers):
        raise UserError(
            f"--ranks is {ranks}, CUDA_VISIBLE_DEVICES names {counted(len(numbers), 'GPU')}; start at most as many"
        )
    return ["--include", "localhost:" + ",".join(numbers[:ranks])]


def ranks_here(wanted: int | None) -> int:
    """How many ranks `launch local` starts where so many are wanted; None: one a GPU, one without. UserError as it."""
    option, value = _devices(wanted)
    return int(value) if option == "--num_accelerators" else value.count(",") + 1


def visible_gpus() -> int:
    """GPUs of this host that a training here would use."""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return gpus() if visible is None else len([number for number in visible.split(",") if number.strip()])


def gpus() -> int:
    """NVIDIA's GPUs in this host, as nvidia-smi lists them; 0 where there is none."""
    if shutil.which("nvidia-smi") is None:
        return 0
    try:
        said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in said.splitlines())
