"""The GPU of a rank: chosen so that no two ranks of a host drive the same one, and no rank a CPU by mistake."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model.loading.device import choose_device
from model.errors import TransientError, UserError
from train.dist.launch_env import Place


def rank_device(place: Place) -> torch.device:
    """This rank's GPU, made the current one; the CPU if there is none or DS_ACCELERATOR is cpu."""
    device = choose_device()
    if device.type == "cpu":
        if os.environ.get("DS_ACCELERATOR") != "cpu":
            require_no_gpu_promised(os.environ)
        return device
    device = torch.device("cuda", gpu_number(place, torch.cuda.device_count()))
    torch.cuda.set_device(device)
    return device


def gpu_number(place: Place, visible: int) -> int:
    """Which of the GPUs that this rank sees is its own.

    Under srun fewer than there are ranks on the host means that each task sees its own alone (--gpus-per-task,
    --gpu-bind), the first; require_own_gpu holds that against the other ranks.
    """
    if place.local_rank < visible and visible >= place.local_size:
        return place.local_rank
    if place.launcher == "srun" and visible:
        return 0
    if place.local_rank < visible and place.launcher == "hand":  # by hand, how many are on this host is not known
        return place.local_rank
    raise UserError(
        f"rank {place.rank} is one of {place.local_size} on {socket.gethostname()}, which shows it {visible} GPUs; "
        "start fewer ranks a host, or look at CUDA_VISIBLE_DEVICES"
    )


def require_no_gpu_promised(env: Mapping[str, str], devices: Path = Path("/dev")) -> None:
    """TransientError if there are GPUs here that torch does not see: it would train on the CPU for days.

    CUDA_VISIBLE_DEVICES tells nothing: the deepspeed launcher sets it on a CPU too.
    """
    told = {name: env.get(name, "") for name in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE")}
    said = [f"{name}={value}" for name, value in told.items() if value not in ("", "0")]
    said += [str(file) for file in sorted(devices.glob("nvidia[0-9]*"))]
    if said:
        raise TransientError(
            f"{said[0]} promises GPUs on {socket.gethostname()}, and torch finds none; look at nvidia-smi "
            "there, or set DS_ACCELERATOR=cpu to train on the CPU"
        )


def require_own_gpu(store: Any, rank: int, gpu: str) -> None:
    """UserError if another rank of this host has the same GPU (its UUID). `store` is one that all ranks share.

    Not a collective, and before NCCL starts, which would fail without naming the ranks.
    """
    host = socket.gethostname()
    holder = store.compare_set(f"gpu/{host}/{gpu}", "", str(rank)).decode()
    if holder != str(rank):
        raise UserError(
            f"ranks {holder} and {rank} on {host} have the same GPU ({gpu}); start as many ranks a host as it has "
            "GPUs, each with its own"
        )
