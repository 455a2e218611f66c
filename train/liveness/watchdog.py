"""Ends a run that hangs, and names the rank that holds it up.

1. The training thread of every rank notes what it is doing (`Watchdog.at`); that is all it ever does here.
2. A thread of every rank puts heartbeats into the key-value store of the process group, over a connection of its own: a
   number that grows while the process lives, and the status.
3. Rank 0 reads the heartbeats of all ranks, the others that of rank 0 and the verdict. Ages are by the reader's own
   clock, so clocks need not agree.
4. A verdict falls when no rank has moved, or one has sent no heartbeat, for `stall_seconds`. Who reaches it puts it
   into the store and prints it; every rank writes its stacks and ends, also from within a collective that never
   returns."""

import contextlib
import faulthandler
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from torch.distributed import DistError, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from train.dist.collectives import World
from train.liveness.exit_status import AGAIN


class RankStatus(StrEnum):
    """What the training thread of a rank is doing."""

    STARTING = "starting"
    READING = "reading"
    COMPUTING = "computing"
    WAITING = "waiting"  # for other ranks, in a collective
    SAVING = "saving"
    EVALUATING = "evaluating"
    DECODING = "decoding"
    ABLATING = "comparing with exchanged speech"
    COMPLETING_FEATURES = "completing the features"
    LEAVING = "leaving"  # its watchdog is closed


@dataclass(frozen=True)
class Heartbeat:
    """What a rank sends of itself."""

    number: int
    where: RankStatus
    step: int
    calls: int  # how often it called `Watchdog.at` since this step began: ranks at the same place have called as often
    host: str
    pid: int

    @property
    def left(self) -> bool:
        return self.where == RankStatus.LEAVING


@dataclass(frozen=True)
class Reply:
    """What the store last said, and when, by our own clock."""

    at: float
    beats: Sequence[Heartbeat | None] = ()
    verdict: str = ""


class HeartbeatExchange:
    """Puts this rank's heartbeats into the store of the env:// rendezvous, and reads the others'. Rank 0 holds that
    store, or torchrun's agent, which survives restarts."""

    def __init__(self, world: World, interval: float, beat: Callable[[int], Heartbeat]) -> None:
        """One heartbeat every `interval` seconds; `beat` makes the one of a number."""
        self.world, self.interval, self.beat = world, interval, beat
        self.reply = Reply(time.monotonic())
        prefix = f"watchdog/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self._verdict = f"{prefix}/verdict"
        self._beats = [f"{prefix}/{rank}" for rank in range(world.size)]

    def run(self, closed: threading.Event) -> None:
        """Until this rank has closed, which its last heartbeat says, or rank 0 has."""
        store: Any = None
        number = 0
        while store or not closed.is_set():
            number, closing = number + 1, closed.is_set()
            try:
                if store is None:
                    store = self._connect()
                    if self.world.first:  # a read waits until each of its keys is there
                        store.multi_set([*self._beats, self._verdict], [""] * (self.world.size + 1))
                store.set(self._beats[self.world.rank], json.dumps(asdict(self.beat(number))))
                if closing:
                    return
                wanted = self._beats if self.world.first else self._beats[:1]
                values = store.multi_get([*wanted, self._verdict])
                *beats, verdict = [json.loads(value) if value else None for value in values]
                beats = [beat and Heartbeat(**beat) for beat in beats]
                self.reply = Reply(time.monotonic(), beats, verdict["verdict"] if verdict else "")
            except (DistError, OSError):
                store = None
            if not self.world.first and any(beat and beat.left for beat in self.reply.beats):
                return
            closed.wait(self.interval)

    def declare(self, verdict: str) -> bool:
        """Puts a verdict into the store; True unless another rank was first, so also if the store does not answer."""
        text = json.dumps({"by": self.world.rank, "verdict": verdict})
        late: list[bool] = []

        def put() -> None:
            with contextlib.suppress(DistError, OSError):
                late.append(self._connect().compare_set(self._verdict, "", text) != text.encode())

        thread = threading.Thread(target=put, daemon=True)
        thread.start()
        thread.join(2 * self.interval + 1)
        return late != [True]

    def _connect(self) -> Any:
        host, port, seconds = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), self.interval + 1
        with socket.create_connection((host, port), seconds):  # OSError, where TCPStore would fill stderr
            pass
        return TCPStore(host, port, None, False, timedelta(seconds=seconds), wait_for_workers=False)


MAX_INTERVAL_SECONDS = 5.0
GONE = "see whether its process is stopped or its host gone"
ADVICE = {
    RankStatus.READING: "look at the storage of the data",
    RankStatus.SAVING: "look at the storage of the run's folder",
    RankStatus.LEAVING: "look for its error above",
    RankStatus.WAITING: "no rank is at work: look at the network between the hosts",
}


class ObservedRank:
    """A rank as another one sees it: its last heartbeat, and when that was new and had moved, by the reader's clock."""

    def __init__(self, rank: int, now: float) -> None:
        self.rank = rank
        self.beat: Heartbeat | None = None
        self.new_at = self.moved_at = now

    def take(self, beat: Heartbeat, now: float) -> None:
        """Compares with the last one."""
        last, self.beat = self.beat, beat
        if last is None or beat.number != last.number:
            self.new_at = now
        if last is None or (beat.where, beat.step, beat.calls) != (last.where, last.step, last.calls):
            self.moved_at = now

    def __str__(self) -> str:
        return f"rank {self.rank}" + (f" ({self.beat.host}, pid {self.beat.pid})" if self.beat else "")


def judge(ranks: Sequence[ObservedRank], now: float, stall_seconds: float, interval: float) -> str:
    """What is wrong with the ranks at the time of the last reply; "" while nothing is.

    A rank that was stopped is named even where it waited: the others stand because of it. Of the others, those that do
    not wait for others are named, and of these the furthest behind."""
    present = [rank for rank in ranks if not (rank.beat and rank.beat.left)]
    still = bool(present) and now - max(rank.moved_at for rank in ranks) > stall_seconds
    limit = min(stall_seconds, 4 * interval) if still else stall_seconds
    if silent := [rank for rank in present if now - rank.new_at > limit]:
        beat, seconds = silent[0].beat, now - silent[0].new_at
        seen = f"last seen in '{beat.where}' at step {beat.step}" if beat else "since the start"
        return f"{_names(silent)} sent no heartbeat for {seconds:.0f} s, {seen}; {GONE}"
    if not still:
        return ""
    beats = {rank: rank.beat for rank in ranks if rank.beat}
    working = [rank for rank, beat in beats.items() if beat.where != RankStatus.WAITING] or list(beats)
    behind = min((beats[rank].step, beats[rank].calls) for rank in working)
    named = [rank for rank in working if (beats[rank].step, beats[rank].calls) == behind]
    where, seconds = beats[named[0]].where, now - named[0].moved_at
    advice = ADVICE.get(where, "look at its stacks")
    return f"{_names(named)} stood in '{where}' at step {behind[0]} for {seconds:.0f} s; {advice}"


def _names(ranks: Sequence[ObservedRank]) -> str:
    if len(ranks) == 1:
        return f"{ranks[0]} has"
    more = ", ".join(str(rank.rank) for rank in ranks[1:9]) + (" ..." if len(ranks) > 9 else "")
    return f"{ranks[0]} and {len(ranks) - 1} more ({more}) have"


class Watchdog:
    """Watches this rank and, through the store, the others. With 0 seconds it watches nothing."""

    def __init__(self, world: World, folder: Path, stall_seconds: float) -> None:
        """After the process group was joined. From here on each rank has to call `at` within `stall_seconds`. `folder`
        is the run's and exists; stacks go into its folder `stacks`, one file a rank."""
        self.world, self.folder, self.stall_seconds = world, folder, stall_seconds
        self.interval = min(stall_seconds / 10, MAX_INTERVAL_SECONDS)
        self._status: tuple[RankStatus, int, int] = (RankStatus.STARTING, 0, 0)  # where, step, calls in this step
        self._ending = False
        self._closed = threading.Event()
        self._ranks = [ObservedRank(rank, time.monotonic()) for rank in range(world.size if world.first else 1)]
        self._exchange = HeartbeatExchange(world, self.interval, self._beat)
        work = [self._watch] + ([lambda: self._exchange.run(self._closed)] if world.size > 1 else [])
        self._threads = [threading.Thread(target=own, daemon=True) for own in work if stall_seconds]
        for thread in self._threads:
            thread.start()

    def at(self, where: RankStatus, step: int) -> None:
        """Notes what the training thread does from now on: progress. It costs a tuple; for every micro-batch. A rank
        that works for long while others wait calls it again and again."""
        _, last_step, calls = self._status
        self._status = (where, step, calls + 1 if step == last_step else 0)

    def close(self) -> None:
        """This rank leaves: it watches no longer and is not waited for. In a `finally`, before the process group ends.

        Waits for its threads, a few beats at most: one inside the store's library would abort the interpreter's end.
        After a verdict it does not return."""
        _, step, calls = self._status
        self._status = (RankStatus.LEAVING, step, calls)
        self._closed.set()
        for thread in self._threads:
            thread.join(2 * self.interval + 1)
        self.hold_after_verdict()

    def hold_after_verdict(self) -> None:
        """Does not return once a verdict has fallen: the watchdog ends the process. The training thread's error is then
        a lost connection, which came of the others' end."""
        if self._ending:
            threading.Event().wait()

    def _beat(self, number: int) -> Heartbeat:
        return Heartbeat(number, *self._status, socket.gethostname(), os.getpid())

    def _watch(self) -> None:
        looked_at = moved_at = time.monotonic()
        status = self._status
        while not self._closed.wait(self.interval):
            now = time.monotonic()
            if now - looked_at > 5 * self.interval:  # this process itself was stopped, as by Ctrl-Z
                moved_at = now
                for rank in self._ranks:
                    rank.new_at = rank.moved_at = now
            looked_at = now
            if self._status != status:
                moved_at, status = now, self._status
            reply = self._exchange.reply if self.world.size > 1 else Reply(now, [self._beat(int(now * 1000))])
            if reply.verdict:
                self._end(reply.verdict, prints=False)
            # Without a reply, a rank that moves shows that only the store is in trouble.
            if now - max(reply.at, moved_at) > self.stall_seconds:
                store = f"the store at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
                verdict = f"{self._ranks[0]} does not answer, {store} not for {now - reply.at:.0f} s; {GONE}"
                self._end(verdict, prints=self.world.rank == 1 or self.world.local_rank == 0)
            if self._judge(reply):
                return

    def _judge(self, reply: Reply) -> bool:
        """Ends the process if the run has stalled; True if rank 0, which judges, has left."""
        for rank, beat in zip(self._ranks, reply.beats, strict=False):  # none before the first reply
            if beat:
                rank.take(beat, reply.at)
        rank_0 = self._ranks[0]
        if not self.world.first and rank_0.beat and rank_0.beat.left:
            return True
        # Rank 0 judges all; the others only see to it that rank 0 lives: it may stand because it waits for one of them.
        if self.world.first or reply.at - rank_0.new_at > self.stall_seconds:
            if verdict := judge(self._ranks, reply.at, self.stall_seconds, self.interval):
                self._end(verdict, prints=self.world.size == 1 or self._exchange.declare(verdict))
        return False

    def _end(self, verdict: str, prints: bool) -> None:
        self._ending = True
        lingers = 2 * self.interval + 1 if self.world.size > 1 else 0.0
        # The file system may be what hangs: then this ends the process from outside Python, its stacks on stderr.
        faulthandler.dump_traceback_later(lingers + 10, exit=True)
        stacks = self.folder / "stacks"
        if prints:
            line = f"{verdict}; stacks of all ranks are in {stacks}/; the same command goes on from the last save"
            with contextlib.suppress(OSError):
                os.write(2, f"watchdog: {line}\n".encode())
        with contextlib.suppress(OSError):
            stacks.mkdir(exist_ok=True)
            with open(stacks / f"rank-{self.world.rank:05}.txt", "w") as file:
                file.write(f"{verdict}\nthis is rank {self.world.rank}: {asdict(self._beat(0))}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        # All read the verdict first: the store may live here, and this end is a lost connection to the others.
        time.sleep(lingers)
        os._exit(AGAIN)
