"""Beats: what the ranks' watchdogs tell each other, through the key-value store of the process group.

A read from a store whose process is stopped never returns, whatever its time-out (torch 2.11), so no answer counts too.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from torch.distributed import DistError, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from train.dist.collectives import World

LEAVING = "leaving"
"""The place of a rank that has closed its watchdog."""


@dataclass(frozen=True)
class Beat:
    """What a rank sends of itself."""

    number: int
    where: str
    step: int
    calls: int
    """How often it called `at` since this step began: ranks at the same place have called as often."""
    host: str
    pid: int

    @property
    def left(self) -> bool:
        return self.where == LEAVING


@dataclass(frozen=True)
class Answer:
    """What the store last said, and when, by our own clock."""

    at: float
    beats: Sequence[Beat | None] = ()
    verdict: str = ""


class Post:
    """This rank's beats into the store of the env:// rendezvous, and the others' out of it.

    Rank 0 holds that store, or torchrun's agent, which lives on over restarts.
    """

    def __init__(self, world: World, seconds_a_beat: float, beat: Callable[[int], Beat]) -> None:
        self.world, self.seconds_a_beat, self.beat = world, seconds_a_beat, beat
        self.answer = Answer(time.monotonic())
        prefix = f"watchdog/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self._verdict = f"{prefix}/verdict"
        self._beats = [f"{prefix}/{rank}" for rank in range(world.size)]

    def exchange_beats(self, closed: threading.Event) -> None:
        """Until this rank has closed, which its last beat says, or rank 0 has."""
        store: Any = None
        number = 0
        while store or not closed.is_set():
            number += 1
            closing = closed.is_set()
            try:
                store = store or self._join()
                store.set(self._beats[self.world.rank], json.dumps(asdict(self.beat(number))))
                if closing:
                    return
                self.answer = self._read(store)
            except (DistError, OSError):
                store = None
            if not self.world.first and any(beat and beat.left for beat in self.answer.beats):
                return
            closed.wait(self.seconds_a_beat)

    def _join(self) -> Any:
        store = self._connect()
        if self.world.first:  # a read waits until each of its keys is there
            store.multi_set([*self._beats, self._verdict], [""] * (self.world.size + 1))
        return store

    def _read(self, store: Any) -> Answer:
        wanted = self._beats if self.world.first else self._beats[:1]
        *beats, verdict = store.multi_get([*wanted, self._verdict])
        told = json.loads(verdict)["verdict"] if verdict else ""
        return Answer(time.monotonic(), [Beat(**json.loads(beat)) if beat else None for beat in beats], told)

    def declare(self, verdict: str) -> bool:
        """Puts a verdict into the store; True unless another rank was first, so also if the store does not answer."""
        text = json.dumps({"by": self.world.rank, "verdict": verdict})
        late: list[bool] = []

        def put() -> None:
            with contextlib.suppress(DistError, OSError):
                late.append(self._connect().compare_set(self._verdict, "", text) != text.encode())

        thread = threading.Thread(target=put, daemon=True)
        thread.start()
        thread.join(2 * self.seconds_a_beat + 1)
        return late != [True]

    def _connect(self) -> Any:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        seconds = self.seconds_a_beat + 1
        with socket.create_connection((host, port), seconds):  # OSError, where TCPStore would fill stderr
            pass
        return TCPStore(host, port, None, False, timedelta(seconds=seconds), wait_for_workers=False)
