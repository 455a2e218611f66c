"""Reads this rank's micro-batches ahead, in threads, in the order of the plan.

No worker processes and no state: reading, FLAC decoding and hashing release the GIL, and the position is the step's
number. What cannot be read is tried again for a while (storage has bad moments), then left out and named."""

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
FIRST_PAUSE_SECONDS = 0.5  # before what cannot be read is tried again; each pause is twice the one before
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

    number: int  # its place among the step's G micro-batches, the same whatever the number of ranks
    batch: Batch
    counts: bool
    """False where the step has no micro-batch left for this rank: the batch keeps the ranks in step and weighs
    nothing."""
    seconds: float  # audio in it
    lost: tuple[Lost, ...] = ()


@dataclass(frozen=True)
class Share:
    """This rank's part of a step, the same number of slots on every rank."""

    slots: list[Slot]
    load_balance: float  # Plan.load_balance of the step
    waited: float  # seconds that the training thread waited for it
    fault: UserError | None = None  # why it cannot be read

    def check(self) -> None:
        """UserError if it cannot be read."""
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
        return [lost for slot in self.slots for lost in slot.lost]


class Loader:
    """The micro-batches of this rank, step after step."""

    def __init__(self, corpus: Corpus, epochs: Epochs, prompt: Prompt, world: World, data: DataConfig) -> None:
        self.corpus, self.epochs, self.prompt, self.world = corpus, epochs, prompt, world
        self.threads, self.retry_seconds = data.reader_threads, data.retry_seconds
        self.slots = -(-epochs.per_step // world.size)
        self.retries = 0
        self._closed = threading.Event()
        self._held = False
        self._gone: set[str] = set()  # shards of which something was lost for good: not waited for again

    def hold(self) -> None:
        """Reads no further than the first epoch until `release`."""
        self._held = True

    def release(self, corpus: Corpus | None = None) -> None:
        """Reads on beyond the first epoch, from `corpus` if given: the same samples in another place."""
        self.corpus, self._held = corpus or self.corpus, False

    def steps(self, first: int) -> Iterator[Share]:
        """Endlessly, from step `first` (counted from 0): the rank's share of each step, read ahead in threads."""
        with ThreadPoolExecutor(self.threads, thread_name_prefix="reader") as pool:
            ahead: deque[tuple[list[Future[Slot]], float]] = deque()
            step, most = first, 1 + max(1, MICRO_BATCHES_AHEAD // self.slots)
            try:
                while True:
                    while not ahead or (len(ahead) < most and not (self._held and self.epochs.locate(step)[0] > 0)):
                        ahead.append(self._submit(pool, step))
                        step += 1
                    futures, load_balance = ahead.popleft()
                    began, slots, fault = time.monotonic(), [], None
                    try:
                        slots = [future.result() for future in futures]
                    except UserError as error:
                        fault = error
                    yield Share(slots, load_balance, time.monotonic() - began, fault)
            finally:
                self._closed.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor, step: int) -> tuple[list[Future[Slot]], float]:
        epoch, inside = self.epochs.locate(step)
        if inside == 0:
            pool.submit(self.epochs.plan, epoch + 1)  # so that it is there when its turn comes
        plan, (rank, size) = self.epochs.plan(epoch), (self.world.rank, self.world.size)
        own = plan.step(inside)[rank::size]
        own += [EMPTY] * (self.slots - len(own))
        self.corpus.prefetch(np.concatenate(own), epoch)
        slots = [pool.submit(self._read, epoch, rank + size * turn, ids) for turn, ids in enumerate(own)]
        return slots, plan.load_balance(inside, size)

    def _read(self, epoch: int, number: int, ids: np.ndarray) -> Slot:
        batch, lost = None, {}
        if len(ids):
            try:
                batch = self.corpus.read(ids, self.prompt, epoch)
            except (ShardError, OSError):
                lost = self._unreadable(ids.tolist(), epoch)
                self._gone |= {self.corpus.shard(i, epoch) for i in lost}
                ids = ids[[i not in lost for i in ids.tolist()]]
                batch = self.corpus.read(ids, self.prompt, epoch) if len(ids) else None
        named = tuple(Lost(self.corpus.index.key[i], reason) for i, reason in lost.items())
        if batch is None:
            return Slot(number, self._idle_batch(epoch), False, 0.0, named)
        return Slot(number, batch, True, float(self.corpus.seconds[ids].sum()), named)

    def _unreadable(self, ids: Sequence[int], epoch: int) -> dict[int, str]:
        """The ids that fail again and again, with the reason."""
        failing, attempted = dict.fromkeys(ids, ""), ids
        pause, deadline = FIRST_PAUSE_SECONDS, time.monotonic() + self.retry_seconds
        while True:
            for i in attempted:
                try:
                    self.corpus.read([i], self.prompt, epoch)
                    del failing[i]
                except (ShardError, OSError) as error:
                    failing[i] = str(error)
            attempted = [i for i in failing if self.corpus.shard(i, epoch) not in self._gone]
            if not attempted or time.monotonic() >= deadline or self._closed.wait(pause):
                return failing
            self.retries, pause = self.retries + 1, 2 * pause

    def _idle_batch(self, epoch: int) -> Batch:
        """The shortest utterance that can be read."""
        order = self.corpus.tokens[self.corpus.ids].argsort(kind="stable")
        *others, last = self.corpus.ids[order[:IDLE_CANDIDATES]].tolist()
        for i in others:
            with suppress(ShardError, OSError):
                return self.corpus.read([i], self.prompt, epoch)
        return self.corpus.read([last], self.prompt, epoch)
