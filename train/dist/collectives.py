"""The ranks of a run, and the few collectives that a step needs. One process is a world of size one."""

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from model.errors import TransientError, UserError
from train.dist.device import rank_device, require_own_gpu
from train.dist.launch_env import find_place, require_master


@dataclass(frozen=True)
class World:
    """This process's place among the ranks."""

    rank: int
    size: int
    local_rank: int
    """Among the ranks of this host; not the number of its GPU, which is 0 where each rank sees its own alone."""
    device: torch.device

    @property
    def first(self) -> bool:
        """True on the one rank that writes files and talks."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """The sums of `values` over all ranks, in float64. A collective."""
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def agree(self, value: Any) -> Any:
        """Rank 0's value (anything JSON holds), on every rank. A collective."""
        box = [value]
        dist.broadcast_object_list(box, device=self.device)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order, on every rank. A collective."""
        boxes: list[Any] = [None] * self.size
        dist.all_gather_object(boxes, value)
        return boxes

    def barrier(self) -> None:
        """Waits for all ranks. A collective."""
        dist.barrier()


class AgreedError(UserError):
    """A UserError that all ranks raise together; the first rank says it."""


class AgreedTransientError(AgreedError, TransientError):
    """The same of one that may be gone at another try."""


def decided_by_first(world: World, work: Callable[[], Any]) -> Any:
    """What `work` returns (JSON) on rank 0, on every rank; a UserError or OSError there ends all. A collective."""
    answer: tuple[str, Any] = ("", None)
    if world.first:
        try:
            answer = ("ok", work())
        except (UserError, OSError) as error:
            passing = isinstance(error, (TransientError, OSError))
            answer = ("transient" if passing else "error", _one_line(error))
    kind, value = world.agree(answer)
    if kind != "ok":
        raise (AgreedTransientError if kind == "transient" else AgreedError)(value)
    return value


def _one_line(error: UserError | OSError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot use {error.filename}: {error.strerror}; look at its rights and disk"
    return str(error)


def together(world: World, work: Callable[[], Any]) -> Any:
    """What `work` returns on this rank; a UserError on any rank is raised on all, naming it. A collective."""
    result, fault = None, ""
    try:
        result = work()
    except UserError as error:
        fault = str(error)
    (faults,) = world.sum(float(bool(fault)))
    if faults:
        found = {said: rank for rank, said in reversed(list(enumerate(world.gather(fault)))) if said}
        message, rank = next(reversed(found.items()))
        raise AgreedError(message if faults == world.size else f"{message} (on rank {rank} of {world.size})")
    return result


def join_world() -> World:
    """This process's rank (place.py), its device, and the five variables that torch.distributed and DeepSpeed read.

    DeepSpeed drives the GPU whose number is LOCAL_RANK: where there are GPUs it is set to the number of this rank's.
    Under mpirun, where DeepSpeed insists on OMPI_COMM_WORLD_LOCAL_RANK, the two are the same (gpu_number). UserError if
    the device that this rank should drive is not there.
    """
    place = find_place()
    require_master(place)
    device = rank_device(place)
    os.environ |= {
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.size),
        "LOCAL_RANK": str(place.local_rank if device.index is None else device.index),
        "MASTER_ADDR": place.master_addr or "127.0.0.1",
        "MASTER_PORT": place.master_port or str(_free_port()),
    }
    return World(place.rank, place.size, place.local_rank, device)


def require_own_gpus(store: Any, world: World, gpu: str) -> None:
    """AgreedError on every rank if two ranks of a host have the same GPU; `gpu` is the UUID of this rank's.

    A collective over `store` alone: no process group need be there.
    """
    fault = ""
    try:
        require_own_gpu(store, world.rank, gpu)
    except UserError as error:
        fault = str(error)
    store.set(f"own-gpu/{world.rank}", fault)
    faults = [said.decode() for said in store.multi_get([f"own-gpu/{rank}" for rank in range(world.size)])]
    if not any(faults):
        return
    store.set(f"own-gpu/read/{world.rank}", "")
    if world.first:  # the store may be this rank's own, and ends with it
        with suppress(dist.DistError):
            store.wait([f"own-gpu/read/{rank}" for rank in range(world.size)])
    raise AgreedError(next(said for said in faults if said))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
