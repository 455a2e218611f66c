"""Checks of all ranks together: missing ranks, clocks, versions and data that differ, speed of the exchange.

Results travel through the key-value store of the rendezvous, so that they arrive also where collectives fail."""

import json
import socket
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import DistError, PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from launch.doctor.gpus import seconds_of, slow_gpus
from launch.doctor.host import FAIL, OK, WARN, CheckResult
from model.errors import UserError, counted
from train.dist.collectives import require_own_gpu
from train.dist.launch_env import RankEnv, agent_has_the_port

SECONDS_FOR_COLLECTIVES = 60.0
CLOCK_SECONDS = 1.0
"""A clock that is off by more makes logs hard to compare; nothing else depends on it."""
EXCHANGES = 30
ADAPTER_BYTES = 86_000_000
"""The gradient of 21.5 M parameters in float32: what a step exchanges."""
CPU_BYTES = 8_000_000  # over gloo, for a test
SLOW_SECONDS = 1.0
"""For one gradient: a step takes about as long."""


def check_ranks(
    place: RankEnv, device: torch.device, own: Sequence[CheckResult], facts: Mapping[str, str], seconds: float
) -> list[CheckResult]:
    """All ranks' results on rank 0, with those about all of them; on the others an empty list. `own` are this rank's,
    `facts` what must be the same everywhere; ranks are waited for so many seconds."""
    host, port, serves = socket.gethostname(), int(place.master_port), place.first and not agent_has_the_port()
    try:
        address = TCPStore(place.master_addr, port, None, serves, timedelta(seconds=seconds), wait_for_workers=False)
        store = PrefixStore("doctor", address)
    except (DistError, OSError) as error:
        what = f"rank {place.rank} does not reach rank 0 at {place.master_addr}:{place.master_port}: {_line(error)}"
        todo = "look at firewalls and GLOO_SOCKET_IFNAME / NCCL_SOCKET_IFNAME"
        return [CheckResult("rendezvous", FAIL, what, todo, host)]
    if device.type == "cuda":
        try:
            require_own_gpu(store, place.rank, str(torch.cuda.get_device_properties(device).uuid))
        except UserError as error:
            own = [*own, CheckResult("GPUs", FAIL, str(error), where=host)]
    report = {"host": host, "facts": dict(facts), "results": [asdict(result) for result in own]}
    store.set(f"report/{place.rank}", json.dumps(report))
    if place.first:
        return _collect(store, place, device, seconds)
    store.wait(["next"], timedelta(seconds=2 * seconds))
    store.set(f"clock/{place.rank}", repr(time.time()))
    if store.get("next") == b"exchange":
        exchange(store, place, device)
    return []


def _collect(store: Any, place: RankEnv, device: torch.device, seconds: float) -> list[CheckResult]:
    """Rank 0 gathers the results of all ranks and adds those about all of them."""
    deadline, reports, missing = time.monotonic() + seconds, {}, []
    for rank in range(place.size):
        try:
            store.wait([f"report/{rank}"], timedelta(seconds=max(0.1, deadline - time.monotonic())))
            reports[rank] = json.loads(store.get(f"report/{rank}"))
        except DistError:
            missing.append(rank)
    results = [CheckResult(**result) for report in reports.values() for result in report["results"]]
    if missing:
        store.set("next", "leave")
        what = f"ranks {', '.join(map(str, missing[:8]))} of {place.size} did not join in {seconds:.0f} s"
        todo = "see whether their hosts are up, and their own output"
        return [*results, CheckResult("rendezvous", FAIL, what, todo)]
    hosts = {rank: report["host"] for rank, report in reports.items()}
    ranks = f"{counted(place.size, 'rank')} on {counted(len(set(hosts.values())), 'host')}"
    results.append(CheckResult("rendezvous", OK, f"{ranks} joined"))
    store.set("next", "exchange")
    offsets, began = {}, time.time()
    for rank in range(1, place.size):
        store.wait([f"clock/{rank}"], timedelta(seconds=SECONDS_FOR_COLLECTIVES))
        offsets[rank] = float(store.get(f"clock/{rank}")) - began
    results += [*clocks(offsets, hosts), *slow_gpus(results)]
    results += differences({rank: (report["host"], report["facts"]) for rank, report in reports.items()})
    return [*results, *exchange(store, place, device)]


def clocks(offsets: Mapping[int, float], hosts: Mapping[int, str]) -> list[CheckResult]:
    """`offsets` of ranks from rank 0's clock, in seconds; one result a host that is off."""
    off = {hosts[rank]: f"{seconds:+.1f} s" for rank, seconds in offsets.items() if abs(seconds) > CLOCK_SECONDS}
    todo = "look at its time service (chronyc tracking); only logs suffer"
    wrong = [CheckResult("clocks", WARN, f"{offset} from rank 0's", todo, host) for host, offset in off.items()]
    return wrong or [CheckResult("clocks", OK, f"all within {CLOCK_SECONDS:g} s")]


def differences(facts: Mapping[int, tuple[str, Mapping[str, str]]]) -> list[CheckResult]:
    """Whether all ranks hold the same versions, recipe, data and models; the first that does not is named."""
    first_host, expected = facts[0]
    wrong: dict[str, CheckResult] = {}
    for rank, (host, own) in facts.items():
        for name in expected.keys() & own.keys():  # models are looked at once a host
            if own[name] != expected[name] and name not in wrong:
                what = f"rank 0 on {first_host} has {_short(expected[name])}, rank {rank} {_short(own[name])}"
                wrong[name] = CheckResult(name, FAIL, what, "give every host the same", host)
    shown = ", ".join(f"{name} {_short(value)}" for name, value in expected.items())
    return [*wrong.values()] or [CheckResult("same on all ranks", OK, shown)]


def exchange(store: Any, place: RankEnv, device: torch.device) -> list[CheckResult]:
    """Latency of a small all_reduce and bandwidth of one of a gradient's size, with a check of their sums."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    time_out, group = timedelta(seconds=SECONDS_FOR_COLLECTIVES), PrefixStore("exchange", store)
    size = ADAPTER_BYTES if device.type == "cuda" else CPU_BYTES
    try:
        dist.init_process_group(backend, store=group, rank=place.rank, world_size=place.size, timeout=time_out)
        small = torch.ones(1, device=device)
        large = torch.full((size // 4,), float(place.rank), device=device)
        latency = statistics.median(seconds_of(device, lambda: dist.all_reduce(small.fill_(1.0)), EXCHANGES))
        seconds_of(device, lambda: dist.all_reduce(large), 1)
        right = bool((large == place.size * (place.size - 1) / 2).all()) and small.item() == place.size
        seconds = statistics.median(seconds_of(device, lambda: dist.all_reduce(large.fill_(1.0)), 5))
    except (RuntimeError, DistError) as error:
        todo = "look at NCCL_DEBUG=INFO, NCCL_SOCKET_IFNAME / GLOO_SOCKET_IFNAME, and the network between the hosts"
        return [CheckResult("collectives", FAIL, f"rank {place.rank}: {_line(error)}", todo)]
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    speed = f"{size / 1e9 / seconds:.2f} GB/s of {size // 10**6} MB"
    what = f"all_reduce ({backend}): {1e3 * latency:.2f} ms for one number, {speed}"
    level, todo = OK, ""
    if not right:
        level, what, todo = FAIL, f"{what}, and the sums are wrong", "a GPU or a network card is broken"
    elif seconds * ADAPTER_BYTES / size > SLOW_SECONDS:
        level, todo = WARN, "a gradient takes over a second: look at the network in use"
    return [CheckResult("collectives", level, what, todo)]


def _short(value: str) -> str:
    """The beginning of a digest."""
    return value[:12] if len(value) == 64 else value[:60] or "none"


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
