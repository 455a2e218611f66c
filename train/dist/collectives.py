"""The ranks of a run, the device of each, and the few collectives of a step. One process is a world of size one."""

import hashlib
import os
import platform
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from model.errors import TransientError, UserError
from model.loading import choose_device
from train.dist.launch_env import RankEnv, read_rank_env, require_master

ROOMS = ("model", "data_prep", "decode", "train")
LIBRARIES = ("torch", "deepspeed", "transformers", "numpy", "safetensors")


@dataclass(frozen=True)
class World:
    """The ranks of a run, and which of them this process is."""

    rank: int
    size: int
    local_rank: int
    """Among the ranks of this host; not the number of its GPU, which is 0 where each rank sees only its own."""
    device: torch.device

    @property
    def first(self) -> bool:
        """True on rank 0, the only one that writes files and prints."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """The sums of `values` over all ranks, in float64. A collective."""
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def agree(self, value: Any) -> Any:
        """Rank 0's value on every rank. A collective."""
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
    """A UserError that all ranks raise together; only rank 0 prints it."""


class AgreedTransientError(AgreedError, TransientError):
    """An AgreedError that another try may not meet."""


def rank0_broadcast(world: World, work: Callable[[], Any]) -> Any:
    """Runs `work` on rank 0 and returns its result on every rank. A collective. AgreedError on every rank if it raised
    a UserError or OSError."""
    result, fault, transient = world.agree(_attempt(work) if world.first else None)
    if fault:
        raise (AgreedTransientError if transient else AgreedError)(fault)
    return result


def all_ranks_or_raise(world: World, work: Callable[[], Any]) -> Any:
    """Runs `work` on every rank and returns this rank's result. A collective. AgreedError on every rank, naming the
    first that failed, if it raised a UserError or OSError on any."""
    result, *own = _attempt(work)
    failed = [(rank, *fault) for rank, fault in enumerate(world.gather(own)) if fault[0]]
    if failed:
        rank, fault, transient = failed[0]
        where = "" if len(failed) == world.size else f" (on rank {rank} of {world.size})"
        raise (AgreedTransientError if transient else AgreedError)(f"{fault}{where}")
    return result


def _attempt(work: Callable[[], Any]) -> tuple[Any, str, bool]:
    """The result; or the message of what `work` raised, and whether another try may not meet it."""
    try:
        return work(), "", False
    except OSError as error:
        named = f"cannot use {error.filename}: {error.strerror}; look at its rights and disk"
        return None, named if error.filename else str(error), True
    except UserError as error:
        return None, str(error), isinstance(error, TransientError)


def agree_on(world: World, facts: Mapping[str, str]) -> None:
    """AgreedError, with the first difference and who differs, unless all ranks hold the same `facts`. A collective."""
    (host, ours), *others = world.gather((socket.gethostname(), dict(facts)))
    for rank, (other_host, theirs) in enumerate(others, 1):
        for name in ours:
            if theirs.get(name) != ours[name]:
                raise AgreedError(
                    f"the ranks do not run the same {name}: rank 0 on {host} has {ours[name]}, rank {rank} on "
                    f"{other_host} has {theirs.get(name)}; give every host the same"
                )


def versions() -> dict[str, str]:
    """Of this program's code (sha256 over its files), of Python and of the libraries that decide results."""
    digest, root = hashlib.sha256(), Path(__file__).parents[2]
    for file in (file for room in ROOMS for file in sorted((root / room).rglob("*.py"))):
        digest.update(f"{file.relative_to(root)} ".encode() + file.read_bytes())
    own = {"code": digest.hexdigest(), "Python": platform.python_version()}
    return own | {name: version(name) for name in LIBRARIES}


def join_world() -> World:
    """This process's rank, its device, and the five variables that torch.distributed and DeepSpeed read.

    DeepSpeed drives the GPU whose number is LOCAL_RANK, so where there are GPUs it is set to the number of this rank's.
    Under mpirun, where DeepSpeed insists on OMPI_COMM_WORLD_LOCAL_RANK, the two are the same (gpu_number). UserError if
    the device that this rank should drive is not there."""
    ranks = read_rank_env()
    require_master(ranks)
    device = rank_device(ranks)
    os.environ |= {
        "RANK": str(ranks.rank),
        "WORLD_SIZE": str(ranks.size),
        "LOCAL_RANK": str(ranks.local_rank if device.index is None else device.index),
        "MASTER_ADDR": ranks.master_addr or "127.0.0.1",
        "MASTER_PORT": ranks.master_port or str(free_port()),
    }
    return World(ranks.rank, ranks.size, ranks.local_rank, device)


def require_own_gpus(store: Any, world: World, gpu: str) -> None:
    """AgreedError on every rank if two ranks of a host have the same GPU; `gpu` is the UUID of this rank's. A
    collective over `store` alone: no process group need be there."""
    _, fault, _ = _attempt(lambda: require_own_gpu(store, world.rank, gpu))
    ranks = range(world.size)
    store.set(f"own-gpu/{world.rank}", fault)
    faults = [fault.decode() for fault in store.multi_get([f"own-gpu/{rank}" for rank in ranks]) if fault]
    if faults:
        store.set(f"own-gpu/read/{world.rank}", "")
        if world.first:  # the store may be this rank's own, and ends with it
            with suppress(dist.DistError):
                store.wait([f"own-gpu/read/{rank}" for rank in ranks])
        raise AgreedError(faults[0])


def free_port() -> int:
    """A TCP port of this host that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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
