"""The GPU of a rank: chosen so that no two ranks of a host drive the same one, and no rank a CPU by mistake."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model.errors import TransientError, UserError
from model.loading import choose_device
from train.dist.launch_env import RankEnv


def rank_device(ranks: RankEnv) -> torch.device:
    """This rank's GPU, made the current one; the CPU if there is none or DS_ACCELERATOR is cpu."""
    device = choose_device()
    if device.type == "cpu":
        if os.environ.get("DS_ACCELERATOR") != "cpu":
            require_no_gpu_promised(os.environ)
        return device
    device = torch.device("cuda", gpu_number(ranks, torch.cuda.device_count()))
    torch.cuda.set_device(device)
    return device


def gpu_number(ranks: RankEnv, visible: int) -> int:
    """Which of the GPUs that this rank sees is its own.

    Under srun, fewer GPUs than ranks on the host mean that each task sees only its own (--gpus-per-task, --gpu-bind),
    as number 0; require_own_gpu checks that against the other ranks. By hand, the number of ranks a host is not known.
    """
    if ranks.local_rank < visible and (visible >= ranks.local_size or ranks.launcher == "hand"):
        return ranks.local_rank
    if ranks.launcher == "srun" and visible:
        return 0
    raise UserError(
        f"rank {ranks.rank} is one of {ranks.local_size} on {socket.gethostname()}, which shows it {visible} GPUs; "
        "start fewer ranks a host, or look at CUDA_VISIBLE_DEVICES"
    )


def require_no_gpu_promised(env: Mapping[str, str], devices: Path = Path("/dev")) -> None:
    """TransientError if there are GPUs here that torch does not see: it would train on the CPU for days.
    CUDA_VISIBLE_DEVICES proves nothing: the deepspeed launcher sets it on a CPU too."""
    slurm = {name: env.get(name, "") for name in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE")}
    signs = [f"{name}={value}" for name, value in slurm.items() if value not in ("", "0")]
    signs += [str(file) for file in sorted(devices.glob("nvidia[0-9]*"))]
    if signs:
        raise TransientError(
            f"{signs[0]} promises GPUs on {socket.gethostname()}, and torch finds none; look at nvidia-smi "
            "there, or set DS_ACCELERATOR=cpu to train on the CPU"
        )


def require_own_gpu(store: Any, rank: int, gpu: str) -> None:
    """UserError if another rank of this host has the same GPU (its UUID). `store` is one that all ranks share. Not a
    collective, and before NCCL starts, which would fail without naming the ranks."""
    host = socket.gethostname()
    holder = store.compare_set(f"gpu/{host}/{gpu}", "", str(rank)).decode()
    if holder != str(rank):
        raise UserError(
            f"ranks {holder} and {rank} on {host} have the same GPU ({gpu}); start as many ranks a host as it has "
            "GPUs, each with its own"
        )
