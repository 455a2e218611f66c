"""What only all ranks together can tell: who does not come, whose clock is off, who is unlike, how fast they exchange.

Findings travel through the key-value store of the rendezvous, so that they arrive also where collectives fail.
"""

import json
import os
import socket
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import DistError, PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from data_prep.figures import counted
from launch.doctor.finding import FAIL, OK, WARN, Finding
from launch.doctor.host import slow_gpus
from model.errors import UserError
from train.dist.device import require_own_gpu
from train.dist.launch_env import RankEnv

SECONDS_FOR_COLLECTIVES = 60.0
CLOCK_SECONDS = 1.0
"""A clock that is off by more makes logs hard to compare; nothing else depends on it."""
EXCHANGES = 30
ADAPTER_BYTES = 86_000_000
"""The gradient of 21.5 M parameters in float32: what a step exchanges."""
CPU_BYTES = 8_000_000  # over gloo, for a test
SLOW_SECONDS = 1.0
"""For one gradient: a step takes about as long."""


def meet(
    place: RankEnv,
    device: torch.device,
    own: Sequence[Finding],
    facts: Mapping[str, str],
    seconds: float,
) -> list[Finding]:
    """All ranks' findings on rank 0, with those about all of them; on the others an empty list."""
    host = socket.gethostname()
    try:
        store = _join(place, seconds)
    except (DistError, OSError) as error:
        said = f"rank {place.rank} does not reach rank 0 at {place.master_addr}:{place.master_port}: {_line(error)}"
        return [Finding("meeting", FAIL, said, "look at firewalls and GLOO_SOCKET_IFNAME / NCCL_SOCKET_IFNAME", host)]
    if device.type == "cuda":
        own = [*own, *_own_gpu(store, place, device, host)]
    told = {"host": host, "facts": dict(facts), "findings": [one.__dict__ for one in own]}
    store.set(f"told/{place.rank}", json.dumps(told))
    if place.first:
        return _lead(store, place, device, seconds)
    store.wait(["go"], timedelta(seconds=2 * seconds))
    store.set(f"clock/{place.rank}", repr(time.time()))
    if store.get("go") == b"exchange":
        exchange(store, place, device)
    return []


def _own_gpu(store: Any, place: RankEnv, device: torch.device, host: str) -> list[Finding]:
    try:
        require_own_gpu(store, place.rank, str(torch.cuda.get_device_properties(device).uuid))
    except UserError as error:
        return [Finding("GPUs", FAIL, str(error), where=host)]
    return []


def _join(place: RankEnv, seconds: float) -> Any:
    time_out, serves = timedelta(seconds=seconds), place.first and not agent_has_the_port()
    port = int(place.master_port)
    store = TCPStore(place.master_addr, port, None, serves, time_out, wait_for_workers=False)
    return PrefixStore("doctor", store)


def agent_has_the_port() -> bool:
    """Whether torchrun's agent serves the store; else rank 0 does."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _lead(store: Any, place: RankEnv, device: torch.device, seconds: float) -> list[Finding]:
    deadline = time.monotonic() + seconds
    told: dict[int, dict[str, Any]] = {}
    missing = []
    for rank in range(place.size):
        left = max(0.1, deadline - time.monotonic())
        try:
            store.wait([f"told/{rank}"], timedelta(seconds=left))
            told[rank] = json.loads(store.get(f"told/{rank}"))
        except DistError:
            missing.append(rank)
    found = [Finding(**one) for rank in told for one in told[rank]["findings"]]
    if missing:
        store.set("go", "leave")
        said = f"ranks {', '.join(map(str, missing[:8]))} of {place.size} did not come in {seconds:.0f} s"
        return [*found, Finding("meeting", FAIL, said, "see whether their hosts are up, and their own output")]
    hosts = len({one["host"] for one in told.values()})
    found.append(Finding("meeting", OK, f"{counted(place.size, 'rank')} on {counted(hosts, 'host')} have met"))
    store.set("go", "exchange")
    found += clocks(_clocks(store, place.size), {rank: told[rank]["host"] for rank in told})
    found += slow_gpus(found)
    found += alike({rank: (one["host"], one["facts"]) for rank, one in told.items()})
    return [*found, *exchange(store, place, device)]


def _clocks(store: Any, size: int) -> dict[int, float]:
    """Each rank's wall clock against rank 0's, as it stood when the rank was told to go."""
    offsets = {}
    began = time.time()
    for rank in range(1, size):
        store.wait([f"clock/{rank}"], timedelta(seconds=SECONDS_FOR_COLLECTIVES))
        offsets[rank] = float(store.get(f"clock/{rank}")) - began
    return offsets


def clocks(offsets: Mapping[int, float], hosts: Mapping[int, str]) -> list[Finding]:
    """`offsets` from rank 0's clock, in seconds."""
    off = {rank: seconds for rank, seconds in offsets.items() if abs(seconds) > CLOCK_SECONDS}
    named = {hosts[rank]: seconds for rank, seconds in off.items()}
    todo = "look at its time service (chronyc tracking); only logs suffer"
    wrong = [Finding("clocks", WARN, f"{seconds:+.1f} s from rank 0's", todo, host) for host, seconds in named.items()]
    return wrong or [Finding("clocks", OK, f"all within {CLOCK_SECONDS:g} s")]


def alike(facts: Mapping[int, tuple[str, Mapping[str, str]]]) -> list[Finding]:
    """Whether all ranks hold the same versions, recipe, data and models; the first that does not is named."""
    host, ours = facts[0]
    wrong: dict[str, Finding] = {}
    for rank, (other, theirs) in facts.items():
        for name in ours.keys() & theirs.keys():  # models are looked at once a host
            if theirs[name] != ours[name] and name not in wrong:
                said = f"rank 0 on {host} has {_short(ours[name])}, rank {rank} {_short(theirs[name])}"
                wrong[name] = Finding(name, FAIL, said, "give every host the same", other)
    shown = ", ".join(f"{name} {_short(value)}" for name, value in ours.items())
    return [*wrong.values()] or [Finding("alike", OK, shown)]


def exchange(store: Any, place: RankEnv, device: torch.device) -> list[Finding]:
    """Latency of a small all_reduce and bandwidth of one of a gradient's size, with a check of their sums."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    time_out = timedelta(seconds=SECONDS_FOR_COLLECTIVES)
    group = PrefixStore("exchange", store)
    try:
        dist.init_process_group(backend, store=group, rank=place.rank, world_size=place.size, timeout=time_out)
        small = torch.ones(1, device=device)
        count = ADAPTER_BYTES if device.type == "cuda" else CPU_BYTES
        large = torch.full((count // 4,), float(place.rank), device=device)
        latency = _seconds(device, lambda: dist.all_reduce(small.fill_(1.0)), EXCHANGES)
        _seconds(device, lambda: dist.all_reduce(large), 1)
        right = bool((large == place.size * (place.size - 1) / 2).all()) and small.item() == place.size
        seconds = _seconds(device, lambda: dist.all_reduce(large.fill_(1.0)), 5)
    except (RuntimeError, DistError) as error:
        todo = "look at NCCL_DEBUG=INFO, NCCL_SOCKET_IFNAME / GLOO_SOCKET_IFNAME, and the network between the hosts"
        return [Finding("collectives", FAIL, f"rank {place.rank}: {_line(error)}", todo)]
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    speed = f"{count / 1e9 / seconds:.2f} GB/s of {count // 10**6} MB"
    said = f"all_reduce ({backend}): {1e3 * latency:.2f} ms for one number, {speed}"
    if not right:
        return [Finding("collectives", FAIL, f"{said}, and the sums are wrong", "a GPU or a network card is broken")]
    if seconds * ADAPTER_BYTES / count > SLOW_SECONDS:
        return [Finding("collectives", WARN, said, "a gradient takes over a second: look at the network in use")]
    return [Finding("collectives", OK, said)]


def _seconds(device: torch.device, work: Callable[[], object], times: int) -> float:
    """The median of so many."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _short(value: str) -> str:
    """The beginning of a digest."""
    return value[:12] if len(value) == 64 else value[:60] or "none"


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
