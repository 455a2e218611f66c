"""From the plan to batches in memory: threads read ahead, in plan order.

No worker processes and no state: reading, FLAC decoding and hashing release the GIL, and where to go on is the step's
number. What cannot be read is tried again for a while (storage has bad moments), then left out and named.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from data_prep.shards.index import ShardError
from model.batch import Batch
from model.errors import UserError
from model.prompt import Prompt
from train.data.corpus import Corpus
from train.data.plan import Epochs
from train.dist.collectives import World
from train.recipe.config import DataConfig

MICRO_BATCHES_AHEAD = 8
"""Read ahead of the step that is computed, or one whole step if that is more: what bounds the memory."""
FIRST_PAUSE_SECONDS = 0.5
"""Before what cannot be read is tried again; each pause is twice the one before."""
IDLE_CANDIDATES = 16
EMPTY = np.empty(0, np.int64)


@dataclass(frozen=True)
class Lost:
    """An utterance that could not be read, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class Slot:
    """One micro-batch of this rank in a step."""

    number: int
    """Its place among the step's G micro-batches, the same whatever the number of ranks."""
    batch: Batch
    counts: bool
    """False where the step has no micro-batch left for this rank: the batch keeps the ranks in step and weighs
    nothing."""
    seconds: float
    """Audio in it."""
    lost: tuple[Lost, ...] = ()


@dataclass(frozen=True)
class Share:
    """This rank's part of a step, the same number of slots on every rank."""

    slots: list[Slot]
    useful: float
    """Plan.useful_share of the step."""
    waited: float
    """Seconds that the rank waited for it."""
    fault: UserError | None = None
    """Why it could not be read, if it could not."""

    def check(self) -> None:
        """Raises its fault, if there is one."""
        if self.fault is not None:
            raise self.fault

    @property
    def seconds(self) -> float:
        return sum(slot.seconds for slot in self.slots)

    @property
    def keys(self) -> list[str]:
        return [key for slot in self.slots if slot.counts for key in slot.batch.keys]

    @property
    def lost(self) -> list[Lost]:
        return [one for slot in self.slots for one in slot.lost]


class Loader:
    """The micro-batches of this rank, step after step."""

    def __init__(self, corpus: Corpus, epochs: Epochs, prompt: Prompt, world: World, data: DataConfig) -> None:
        self.corpus, self.epochs, self.prompt, self.world = corpus, epochs, prompt, world
        self.threads, self.retry_seconds = data.reader_threads, data.retry_seconds
        self.slots = -(-epochs.per_step // world.size)
        self._closed = threading.Event()
        self.retries = 0
        self.holds = False
        """Whether the first epoch has to be over before the second is read."""
        self._gone: set[str] = set()  # shards of which something was lost for good: not waited for again

    def steps(self, first: int) -> Iterator[Share]:
        """Endlessly, from step `first` (counted from 0): the rank's share of each step, read ahead in threads."""
        with ThreadPoolExecutor(self.threads, thread_name_prefix="reader") as pool:
            ahead: deque[tuple[list[Future[Slot]], float]] = deque()
            step = first
            try:
                while True:
                    while len(ahead) <= max(1, MICRO_BATCHES_AHEAD // self.slots) and not (ahead and self._waits(step)):
                        ahead.append(self._submit(pool, step))
                        step += 1
                    yield self._collect(*ahead.popleft())
            finally:
                self._closed.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def _waits(self, step: int) -> bool:
        return self.holds and self.epochs.locate(step)[0] > 0

    def _submit(self, pool: ThreadPoolExecutor, step: int) -> tuple[list[Future[Slot]], float]:
        epoch, inside = self.epochs.locate(step)
        if inside == 0:
            pool.submit(self.epochs.plan, epoch + 1)  # so that it is there when its turn comes
        plan = self.epochs.plan(epoch)
        micro_batches = plan.step(inside)
        numbers = range(self.world.rank, self.slots * self.world.size, self.world.size)
        self.corpus.prefetch(np.concatenate(micro_batches[self.world.rank :: self.world.size] or [EMPTY]), epoch)
        own = [(n, micro_batches[n] if n < len(micro_batches) else EMPTY) for n in numbers]
        return [pool.submit(self._read, epoch, *one) for one in own], plan.useful_share(inside, self.world.size)

    def _collect(self, coming: list[Future[Slot]], useful: float) -> Share:
        began = time.monotonic()
        try:
            slots = [future.result() for future in coming]
        except UserError as error:
            return Share([], useful, time.monotonic() - began, error)
        return Share(slots, useful, time.monotonic() - began)

    def _read(self, epoch: int, number: int, ids: np.ndarray) -> Slot:
        batch, ids, lost = self._read_surely(ids, epoch)
        if batch is None:
            return Slot(number, self._idle_batch(epoch), False, 0.0, lost)
        return Slot(number, batch, True, float(self.corpus.seconds[ids].sum()), lost)

    def _read_surely(self, ids: np.ndarray, epoch: int) -> tuple[Batch | None, np.ndarray, tuple[Lost, ...]]:
        """The batch of those `ids` that can be read, which they are, and those that cannot."""
        if len(ids) == 0:
            return None, ids, ()
        try:
            return self.corpus.read(ids, self.prompt, epoch), ids, ()
        except (ShardError, OSError):
            lost = self._failing(ids, epoch)
        kept = ids[[i not in lost for i in ids.tolist()]]
        self._gone |= {self.corpus.shard(i, epoch) for i in lost}
        named = tuple(Lost(self.corpus.key(i), reason) for i, reason in lost.items())
        return (self.corpus.read(kept, self.prompt, epoch) if len(kept) else None), kept, named

    def _failing(self, ids: np.ndarray, epoch: int) -> dict[int, str]:
        """The ids that fail again and again, with the reason."""
        failing = self._try_each(ids.tolist(), epoch)
        pause, ends = FIRST_PAUSE_SECONDS, time.monotonic() + self.retry_seconds
        while time.monotonic() < ends:
            waited_for = [i for i in failing if self.corpus.shard(i, epoch) not in self._gone]
            if not waited_for or self._closed.wait(pause):
                break
            self.retries, pause = self.retries + 1, 2 * pause
            failing = {i: failing[i] for i in failing if i not in waited_for} | self._try_each(waited_for, epoch)
        return failing

    def _try_each(self, ids: Sequence[int], epoch: int) -> dict[int, str]:
        failing = {}
        for i in ids:
            try:
                self.corpus.read([i], self.prompt, epoch)
            except (ShardError, OSError) as error:
                failing[i] = str(error)
        return failing

    def _idle_batch(self, epoch: int) -> Batch:
        """The shortest utterance that can be read."""
        *others, last = self.corpus.shortest(IDLE_CANDIDATES)
        for i in others:
            with suppress(ShardError, OSError):
                return self.corpus.read([i], self.prompt, epoch)
        return self.corpus.read([last], self.prompt, epoch)
