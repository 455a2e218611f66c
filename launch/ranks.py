"""Which process of how many this is, by the environment that deepspeed, torchrun and srun set. No torch, no group."""

from __future__ import annotations

import os
from dataclasses import dataclass

from model.errors import UserError


@dataclass(frozen=True)
class Rank:
    """This process among those that were started together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """On this host."""
    local_size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0


def this_rank() -> Rank:
    """Alone where no launcher set anything. UserError for variables that are no numbers, or that do not agree."""
    if "RANK" in os.environ:
        return _rank("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if os.environ.get("SLURM_NTASKS", "1") != "1" and "SLURM_PROCID" in os.environ:
        return _rank("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE")
    return Rank()


def _rank(rank: str, size: str, local_rank: str, local_size: str) -> Rank:
    """From the variables of these names; the last two may be absent, then all ranks are on this host."""
    values = {name: os.environ.get(name) for name in (rank, size, local_rank, local_size)}
    try:
        this, all_of_them = int(values[rank] or ""), int(values[size] or "")
        here, all_here = int(values[local_rank] or this), int(values[local_size] or all_of_them)
    except ValueError:
        said = ", ".join(f"{name}={value}" for name, value in values.items() if value is not None)
        raise UserError(f"{said} do not say which rank this is; start with deepspeed, torchrun or srun") from None
    if not 0 <= this < all_of_them:
        raise UserError(f"{rank} is {this}, of {all_of_them} ranks; start with deepspeed, torchrun or srun")
    return Rank(this, all_of_them, here, all_here)
