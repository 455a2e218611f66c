"""The ranks that decode together: those started by a launcher, or this process alone.

Collectives use gloo, on the CPU, which fails on the other ranks when one dies, so that none waits for it. During
decoding the ranks share only counters in the store of the rendezvous."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import DistError, HashStore, PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from launch.command import INTERRUPTED, MISTAKE, interrupted_by_sigterm
from model.errors import TransientError, UserError, counted
from model.loading import choose_device
from train.dist.collectives import AgreedError, World, gpu_number, require_own_gpus
from train.dist.launch_env import RankEnv, agent_has_the_port, require_master

SECONDS_TO_JOIN = 600.0  # Python and torch start slowly from a shared file system
SECONDS_TO_MEET = 3600.0  # for collectives: between the first rank to arrive and the last
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Ranks(World):
    """The ranks of a decoding, and this process's place among them. `device` is that of the collectives, the CPU."""

    store: Any  # shared by all

    def agree(self, value: Any) -> Any:
        return value if self.size == 1 else self._meet(lambda: super(Ranks, self).agree(value))

    def gather(self, value: Any) -> list[Any]:
        return [value] if self.size == 1 else self._meet(lambda: super(Ranks, self).gather(value))

    def wait_for_all(self, meanwhile: Callable[[], None]) -> None:
        """Waits for all ranks, calling `meanwhile` every POLL_SECONDS; can be interrupted by a signal. A collective."""
        if self.size > 1:
            arrived: Any = self._meet(lambda: dist.barrier(async_op=True))
            while not arrived.is_completed():
                meanwhile()
                time.sleep(POLL_SECONDS)
            self._meet(arrived.wait)
        meanwhile()

    def add(self, counter: str, more: int) -> int:
        """Adds to a counter shared by all ranks, which starts at 0, and returns its value."""
        return self._meet(lambda: self.store.add(counter, more))

    def turns(self) -> Iterator[int]:
        """Yields 0, 1, 2 ...: each number on one rank only, the first to ask."""
        return (self.add("turn", 1) - 1 for _ in count())

    def _meet(self, work: Callable[[], Any]) -> Any:
        """The result of `work`; TransientError if another rank, or the network, fails."""
        try:
            return work()
        except (RuntimeError, DistError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            lost = f"rank {self.rank} of {self.size}: another rank has ended, or cannot be reached ({reason})"
            raise TransientError(f"{lost}; decoded batches are kept; run the same command to continue") from None


@contextmanager
def joined(place: RankEnv) -> Iterator[Ranks]:
    """The ranks, once all have started. Within the block, SIGTERM acts as Ctrl-C; an error raised by all ranks together
    leaves it on rank 0 only, and the others exit. A collective."""
    ranks = _join(place)
    try:
        with interrupted_by_sigterm():
            yield ranks
    except AgreedError:
        if ranks.first:
            raise
        sys.exit(MISTAKE)
    except KeyboardInterrupt:
        if ranks.size == 1:
            raise
        if ranks.first:
            print("slam-asr: stopped", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)  # a normal exit would wait for a barrier that other ranks do not reach
    if ranks.size > 1:
        dist.destroy_process_group()


def own_device(name: str, place: RankEnv) -> str:
    """`--device` for this rank: several ranks each get a GPU of their own. UserError if there are too few."""
    if place.size == 1 or name == "cpu" or (name == "auto" and choose_device(name).type == "cpu"):
        return name
    if name not in ("auto", "cuda"):
        raise UserError(f"--device {name} for {place.size:,} ranks: each needs its own GPU; give auto, cuda or cpu")
    device = torch.device("cuda", gpu_number(place, torch.cuda.device_count()))
    torch.cuda.set_device(device)
    return str(device)


def require_gpus_apart(ranks: Ranks, device: str) -> None:
    """AgreedError if two ranks have the same GPU. A collective on GPUs."""
    if ranks.size > 1 and device.startswith("cuda"):
        require_own_gpus(ranks.store, ranks, str(torch.cuda.get_device_properties(device).uuid))


def _join(place: RankEnv) -> Ranks:
    """UserError, with the number that have started, if the ranks cannot connect."""
    alone = torch.device("cpu")
    if place.size == 1:
        return Ranks(0, 1, 0, alone, HashStore())
    require_master(place)
    port, serves = int(place.master_port), place.first and not agent_has_the_port()
    wait = timedelta(seconds=SECONDS_TO_JOIN)
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun's store outlives its ranks
    try:
        served = TCPStore(place.master_addr, port, None, serves, wait, wait_for_workers=False)
        store = PrefixStore(f"score/{start}", served)
        store.add("joined", 1)
        deadline = time.monotonic() + SECONDS_TO_JOIN
        while (there := store.add("joined", 0)) < place.size:
            if time.monotonic() > deadline:
                raise UserError(
                    f"only {there} of {counted(place.size, 'rank')} have started in {SECONDS_TO_JOIN:.0f} s; see the "
                    "output of the others"
                )
            time.sleep(POLL_SECONDS)
        meet = timedelta(seconds=SECONDS_TO_MEET)
        group = PrefixStore("group", store)
        dist.init_process_group("gloo", store=group, rank=place.rank, world_size=place.size, timeout=meet)
    except (RuntimeError, DistError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        what = f"rank {place.rank} of {place.size} cannot reach the others at {place.master_addr}:{port} ({reason})"
        raise UserError(f"{what}; check firewalls and GLOO_SOCKET_IFNAME") from None
    return Ranks(place.rank, place.size, place.local_rank, alone, store)
