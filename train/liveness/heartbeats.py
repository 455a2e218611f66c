"""Heartbeats that the ranks' watchdogs exchange through the key-value store of the process group.

A read from a store whose process is stopped never returns, whatever its time-out (torch 2.11), so the reader also
watches for replies that do not come."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from torch.distributed import DistError, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from train.dist.collectives import World


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
