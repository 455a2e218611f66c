"""Ranks that really hang: forked processes with gloo, stopped or asleep, and the watchdog that has to end them."""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from tests import ranks
from train.dist.collectives import World, free_port
from train.liveness.exit_status import AGAIN
from train.liveness.watchdog import Heartbeat, ObservedRank, RankStatus, Watchdog, judge

STALL_SECONDS = 5.0
"""Four beats, after which a rank counts as silent where all stand, are 2 s: no busy machine holds one up so long."""


def step_on_and_on(watchdog: Watchdog, rank: int) -> None:
    import torch.distributed as dist

    for step in range(10**6):
        watchdog.at(RankStatus.READING, step)
        time.sleep(0.02)
        watchdog.at(RankStatus.WAITING, step)
        dist.all_reduce(torch.zeros(1))
        if all(sight.beat and sight.beat.where in ("reading", "waiting") for sight in watchdog._ranks):
            (watchdog.folder / f"seen-{rank}").touch()


def rank_1_never_reads_step_3(watchdog: Watchdog, rank: int) -> None:
    import torch.distributed as dist

    for step in range(10**6):
        watchdog.at(RankStatus.READING, step)
        if rank == 1 and step == 3:
            time.sleep(1000)
        watchdog.at(RankStatus.WAITING, step)
        dist.all_reduce(torch.zeros(1))


def rank_1_evaluates_for_long(watchdog: Watchdog, rank: int) -> None:
    import torch.distributed as dist

    for _ in range(int(1.5 * STALL_SECONDS / 0.2) if rank == 1 else 0):
        watchdog.at(RankStatus.EVALUATING, 5)
        time.sleep(0.2)
    watchdog.at(RankStatus.WAITING, 5)
    dist.all_reduce(torch.zeros(1))


def all_wait_for_ever(watchdog: Watchdog, rank: int) -> None:
    watchdog.at(RankStatus.WAITING, 7)
    time.sleep(1000)


def _rank(work, rank: int, size: int, port: int, folder: Path, agent: bool) -> None:
    handle = os.open(folder / f"log-{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    import torch.distributed as dist

    env = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in env.items()}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = str(agent)
    if size > 1:
        dist.init_process_group("gloo", timeout=timedelta(seconds=600))
    watchdog = Watchdog(World(rank, size, rank, torch.device("cpu")), folder, STALL_SECONDS)
    (folder / f"pid-{rank}").touch()
    try:
        work(watchdog, rank)
    finally:
        watchdog.close()
    if size > 1:
        dist.barrier()
        dist.destroy_process_group()


@contextmanager
def running(work, size: int, folder: Path, agent_port: int = 0) -> Iterator[list]:
    """Ranks that have joined and do `work`."""
    port = agent_port or free_port()
    context = ranks.fork_server()
    started = [
        context.Process(target=_rank, args=(work, rank, size, port, folder, bool(agent_port)), daemon=True)
        for rank in range(size)
    ]
    try:
        for process in started:
            process.start()
        wait_for_all(folder, "pid", started)
        yield started
    finally:
        for process in started:
            process.kill()
            process.join()


def wait_for_all(folder: Path, what: str, started: list) -> None:
    """Until every rank has written its file `what`-RANK."""
    deadline = time.monotonic() + ranks.HANGS_AFTER
    while not all((folder / f"{what}-{rank}").exists() for rank in range(len(started))):
        assert time.monotonic() < deadline and all(process.is_alive() for process in started), logs(folder)
        time.sleep(0.02)


def exit_codes(processes: list, seconds: float = ranks.HANGS_AFTER) -> list[int | None]:
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    return [process.exitcode for process in processes]


def logs(folder: Path) -> str:
    return "".join(file.read_text() for file in sorted(folder.glob("log-*")))


def verdicts(folder: Path) -> list[str]:
    return re.findall("^watchdog: .*$", logs(folder), re.MULTILINE)


@pytest.mark.parametrize("stopped", [1, 0])
def test_a_stopped_rank_is_named_and_all_others_end_with_their_stacks(tmp_path, stopped):
    with running(step_on_and_on, 3, tmp_path) as processes:
        wait_for_all(tmp_path, "seen", processes)
        os.kill(processes[stopped].pid, signal.SIGSTOP)
        others = [process for process in processes if process is not processes[stopped]]
        assert exit_codes(others) == [AGAIN] * 2, logs(tmp_path)
    (line,) = verdicts(tmp_path)
    assert f"rank {stopped} (" in line and f"pid {processes[stopped].pid})" in line and str(tmp_path / "stacks") in line
    dumped = sorted((tmp_path / "stacks").iterdir())
    assert [file.name for file in dumped] == [f"rank-0000{rank}.txt" for rank in range(3) if rank != stopped]
    assert all("step_on_and_on" in file.read_text() for file in dumped)


def test_with_the_store_of_torchruns_agent_a_stopped_rank_0_is_named_too(tmp_path):
    agent = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=60), wait_for_workers=False)
    with running(step_on_and_on, 3, tmp_path, agent_port=agent.port) as processes:
        wait_for_all(tmp_path, "seen", processes)
        os.kill(processes[0].pid, signal.SIGSTOP)
        assert exit_codes(processes[1:]) == [AGAIN] * 2, logs(tmp_path)
    (line,) = verdicts(tmp_path)
    assert f"pid {processes[0].pid}) has sent no heartbeat for" in line
    assert re.search(r", last seen in '(reading|waiting)' at step \d", line), line


def test_a_read_that_hangs_is_named_with_its_step_and_its_stack(tmp_path):
    with running(rank_1_never_reads_step_3, 3, tmp_path) as processes:
        assert exit_codes(processes) == [AGAIN] * 3, logs(tmp_path)
    (line,) = verdicts(tmp_path)
    assert f"rank 1 ({os.uname().nodename}, pid {processes[1].pid}) has stood in 'reading' at step 3 for " in line
    assert "rank_1_never_reads_step_3" in (tmp_path / "stacks" / "rank-00001.txt").read_text()


def test_ranks_that_wait_for_one_that_works_for_long_are_left_alone(tmp_path):
    with running(rank_1_evaluates_for_long, 2, tmp_path) as processes:
        assert exit_codes(processes) == [0, 0], logs(tmp_path)
    assert logs(tmp_path) == "" and not (tmp_path / "stacks").exists()


def test_a_world_of_one_is_watched_too_but_not_while_it_is_stopped(tmp_path):
    with running(all_wait_for_ever, 1, tmp_path) as processes:
        os.kill(processes[0].pid, signal.SIGSTOP)
        time.sleep(1.5 * STALL_SECONDS)
        goes_on = time.monotonic()
        os.kill(processes[0].pid, signal.SIGCONT)
        assert exit_codes(processes) == [AGAIN], logs(tmp_path)
        assert time.monotonic() - goes_on > STALL_SECONDS, "the seconds in which it was stopped were counted"
    (line,) = verdicts(tmp_path)
    assert "has stood in 'waiting' at step 7 for " in line


def sights(*places: tuple[str, int, int], new_at: dict[int, float] | None = None) -> list[ObservedRank]:
    """Ranks at (where, step, calls) that moved last at time 0 and gave their last beat at time 100."""
    seen = [ObservedRank(rank, 0.0) for rank in range(len(places))]
    for sight, place in zip(seen, places, strict=True):
        sight.take(Heartbeat(1, RankStatus(place[0]), *place[1:], host="h", pid=sight.rank), 0.0)
        sight.new_at = (new_at or {}).get(sight.rank, 100.0)
    return seen


def test_the_verdict_names_what_the_others_wait_for():
    def verdict(seen: list[ObservedRank], now: float = 101.0) -> str:
        return judge(seen, now, stall_seconds=100, interval=5)

    ahead = ("computing", 4, 3)  # under ZeRO-3 these wait too
    assert verdict(sights(ahead, ("reading", 4, 2), ahead)).startswith("rank 1 (h, pid 1) has stood in 'reading'")
    assert verdict(sights(("waiting", 4, 1), ahead)).startswith("rank 1 (h, pid 1) has stood in 'computing' at step 4")
    assert "at step 4 for 101 s; no rank is at work" in verdict(sights(*[("waiting", 4, 3)] * 12))
    assert verdict(sights(*[("waiting", 4, 3)] * 12)).startswith("rank 0 (h, pid 0) and 11 more (1, 2, 3, 4, 5, ")
    assert verdict(sights(("waiting", 4, 3), ("leaving", 4, 1))).startswith("rank 1 (h, pid 1) has stood in 'leaving'")
    # A rank whose beats ended a while before all stood still is what they wait for, wherever it was.
    assert verdict(sights(ahead, ("waiting", 4, 2), new_at={1: 60})).startswith(
        "rank 1 (h, pid 1) has sent no heartbeat"
    )
    assert verdict(sights(ahead, ("leaving", 4, 3)), now=99) == ""
    assert verdict(sights(("leaving", 9, 1), ("leaving", 9, 1))) == ""


def test_one_rank_that_moves_keeps_all_but_a_silent_one():
    moving = sights(("waiting", 4, 3), ("evaluating", 4, 3))
    moving[1].take(Heartbeat(2, RankStatus.EVALUATING, 4, 4, "h", 1), 90.0)
    assert judge(moving, 101, stall_seconds=100, interval=5) == ""
    moving[0].new_at = 0.5
    assert "rank 0 (h, pid 0) has sent no heartbeat" in judge(moving, 101, stall_seconds=100, interval=5)


def test_without_seconds_nothing_is_watched(tmp_path):
    watchdog = Watchdog(World(0, 1, 0, torch.device("cpu")), tmp_path, 0)
    watchdog.at(RankStatus.READING, 1)
    watchdog.close()
