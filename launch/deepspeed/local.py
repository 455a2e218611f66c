"""`slam-asr launch local`: training on this host."""

import argparse
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from launch.deepspeed.running import Launch, carry_out, command
from model.errors import UserError, counted, require_at_least

if TYPE_CHECKING:
    from train.recipe.config import Config


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranks", type=int, help="processes (default: one a GPU; one without)")


def run(args: argparse.Namespace, config: "Config") -> int:
    options = ["--hostfile", "/dev/null", *_devices(ranks_here(args.ranks))]  # not /job/hostfile, deepspeed's default
    return carry_out(Launch(command(args, config, options), Path(config.run.dir)), args.dry_run)


def ranks_here(wanted: int | None) -> int:
    """How many ranks `launch local` starts; None: one a GPU, one without. UserError for more ranks than GPUs."""
    available = visible_gpus()
    if wanted is None:
        return available or 1
    require_at_least("--ranks", wanted, 1)
    if wanted > available > 0:
        there = counted(available, "GPU")
        raise UserError(f"--ranks is {wanted}, this host has {there} to use; start at most one a GPU")
    return wanted


def visible_gpus() -> int:
    """GPUs that a training on this host would use."""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return 0
    return len(_visible()) if "CUDA_VISIBLE_DEVICES" in os.environ else gpus()


def _visible() -> list[str]:
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    return [name.strip() for name in names.split(",")] if names else []


def _devices(ranks: int) -> list[str]:
    """deepspeed's options. From a number alone it takes the host's first GPUs, whatever CUDA_VISIBLE_DEVICES says."""
    visible = _visible()
    if not visible or os.environ.get("DS_ACCELERATOR") == "cpu":
        return ["--num_accelerators", str(ranks)]
    if not all(name.isdecimal() for name in visible):
        todo = "give numbers as `nvidia-smi -L` prints them, or start with torchrun"
        raise UserError(f"CUDA_VISIBLE_DEVICES is {','.join(visible)!r}, deepspeed takes numbers only; {todo}")
    return ["--include", "localhost:" + ",".join(visible[:ranks])]


def gpus() -> int:
    """NVIDIA GPUs of this host, by nvidia-smi; 0 where there is none."""
    with suppress(OSError, subprocess.TimeoutExpired):
        printed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30).stdout
        return sum(line.startswith("GPU ") for line in printed.splitlines())
    return 0
