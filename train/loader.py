"""From the plan to batches in memory: threads read ahead, in plan order.

No worker processes and no state: reading, FLAC decoding and hashing release the GIL, and where to go on is the step's
number.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from model.batch import Batch
from model.prompt import Prompt
from train.corpus import Corpus
from train.plan import Epochs
from train.world import World, together

MICRO_BATCHES_AHEAD = 8
"""Read ahead of the step that is computed, or one whole step if that is more: what bounds the memory."""


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


class Loader:
    """The micro-batches of this rank, step after step."""

    def __init__(self, corpus: Corpus, epochs: Epochs, prompt: Prompt, world: World, threads: int) -> None:
        self.corpus, self.epochs, self.prompt, self.world, self.threads = corpus, epochs, prompt, world, threads
        self.slots = -(-epochs.per_step // world.size)

    def steps(self, first: int) -> Iterator[list[Slot]]:
        """Endlessly, from step `first` (counted from 0): the rank's slots of each step, read ahead in threads.

        Each is a collective: an utterance that one rank cannot read ends the run on all.
        """
        with ThreadPoolExecutor(self.threads, thread_name_prefix="reader") as pool:
            ahead: deque[list[Future[Slot]]] = deque()
            step = first
            try:
                while True:
                    while len(ahead) <= max(1, MICRO_BATCHES_AHEAD // self.slots):
                        ahead.append([pool.submit(self._read, *share) for share in self._share(step)])
                        step += 1
                    coming = ahead.popleft()
                    yield together(self.world, lambda: [future.result() for future in coming])  # noqa: B023 - used at once
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _share(self, step: int) -> list[tuple[int, np.ndarray]]:
        """(slot number, sample ids) of this rank's part of a step, the same count on every rank."""
        epoch, inside = self.epochs.locate(step)
        micro_batches = self.epochs.plan(epoch).step(inside)
        numbers = range(self.world.rank, self.slots * self.world.size, self.world.size)
        return [(n, micro_batches[n] if n < len(micro_batches) else np.empty(0, np.int64)) for n in numbers]

    def _read(self, number: int, ids: np.ndarray) -> Slot:
        if len(ids) == 0:
            return Slot(number, self.corpus.read([self.corpus.shortest], self.prompt), False, 0.0)
        return Slot(number, self.corpus.read(ids, self.prompt), True, float(self.corpus.seconds[ids].sum()))
