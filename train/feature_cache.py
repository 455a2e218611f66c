"""Write-through: keeps the frames that the encoder computes in the first epoch, and reads them from the second on.

    1. In epoch 0 a micro-batch is encoded first, and a thread of each rank writes its frames into shards of the rank's
       own (`encoded`).
    2. Before every checkpoint they are published, so that what a resumed run does not meet again is there (`publish`).
    3. After the last step of epoch 0, beyond which nothing is read ahead, what the epoch did not meet is encoded too,
       the directory gets its index, and the loader reads frames from there (`complete`).

It is an ordinary feature directory, for `data.train` of other runs. A full disk ends the writing, not the run."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from data_prep.features.build import FeatureRank, build_features
from data_prep.features.writer import FeatureWriter
from data_prep.progress import Silent
from data_prep.shards.index import INDEX_NAME
from data_prep.shards.opening import read_index
from model.batch import Batch
from model.errors import UserError
from train.data.loader import Loader, Slot
from train.dist.collectives import World, all_ranks_or_raise, rank0_broadcast
from train.engine.engine import Engine
from train.recipe.config import DataConfig

MAX_QUEUED = 4  # micro-batches whose frames wait for the disk: what bounds the memory
MAX_MISSING = 0.1  # share of the audio: more than that is not encoded while the GPUs wait for the next epoch


class FeatureCache:
    """The feature directory of a run."""

    def __init__(
        self, data: DataConfig, engine: Engine, loader: Loader, world: World, say: Callable[[str], None]
    ) -> None:
        assert data.write_features is not None
        self.folder, self.dtype = Path(data.write_features), data.feature_dtype
        self.engine, self.loader, self.world, self.say = engine, loader, world, say
        self._writer: FeatureWriter | None = None  # while it is being filled
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="features")
        self._queue: deque[Future[None]] = deque()
        self._fault = ""

    def begin(self, epoch: int, beat: Callable[[], None]) -> None:
        """Goes on where a run in this epoch left. A collective; UserError if the directory is of something else."""

        def open_writer() -> FeatureWriter:
            encoder, index, world = self.engine.model.encoder, self.loader.corpus.index, self.world
            if encoder is None or index.kind != "audio":
                raise UserError("data.write_features keeps frames of audio, data.train holds features; leave it out")
            return FeatureWriter(self.folder, index, encoder.fingerprint(), self.dtype, world.rank, world.size)

        self._writer = all_ranks_or_raise(self.world, open_writer)
        self.loader.hold()
        if epoch > 0:
            self.complete(beat)

    def encoded(self, slot: Slot) -> Batch:
        """The micro-batch; while the cache is filled, with frames in place of its audio, which are written too."""
        if self._writer is None:
            return slot.batch
        batch = self.engine.encode(slot.batch)
        if slot.counts and not self._fault:
            while len(self._queue) >= MAX_QUEUED:
                self._queue.popleft().result()
            self._queue.append(self._thread.submit(self._write, self._writer, batch))
        return batch

    def _write(self, writer: FeatureWriter, batch: Batch) -> None:
        assert batch.features is not None
        frames = batch.features.cpu().split(batch.feature_cu.diff().tolist())
        with self._note_fault():
            for key, own in zip(batch.keys, frames, strict=True):
                if not self._fault and not writer.has(key):
                    writer.add(key, own)

    def publish(self) -> None:
        """Frames so far are on disk when this returns, or the writing is given up. A collective."""
        if self._writer is None:
            return
        self._settle(self._writer.flush)
        if faults := self._faults():
            self._writer.abandon()
            self._writer = None
            self.loader.release()
            self.say(
                f"features are no longer kept: {faults[0]}; what is in {self.folder} stays, and `slam-asr prep "
                "features` makes the rest"
            )

    def complete(self, beat: Callable[[], None]) -> None:
        """Ends the filling: the loader reads frames from the next epoch on, if all are there. A collective. `beat` is
        called while it takes time."""
        self.publish()
        if self._writer is None:
            return
        self._settle(self._writer.close)
        self._writer = None
        self.world.barrier()  # all have published
        with self._note_fault():
            self._encode_missing(beat)
        faults, cached = self._faults(), None
        if rank0_broadcast(self.world, lambda: (self.folder / INDEX_NAME).exists()):
            cached = all_ranks_or_raise(self.world, lambda: self.loader.corpus.cached_in(read_index(self.folder)))
            self.say(f"features are read from {self.folder} from here on, the encoder is not used any more")
        else:
            why = f": {faults[0]}" if faults else ""
            self.say(f"{self.folder} does not hold all features{why}; this run goes on encoding")
        self.loader.release(cached)

    def _encode_missing(self, beat: Callable[[], None]) -> None:
        """Utterances left out by the recipe's limits, or lost. Each rank its share; none waits for another here."""
        corpus, encoder, world = self.loader.corpus, self.engine.model.encoder, self.world
        assert encoder is not None
        missing = 1 - float(corpus.seconds[corpus.ids].sum()) / corpus.index.seconds
        if missing > MAX_MISSING:
            raise UserError(f"{missing:.0%} of the audio is not in the recipe's epoch")
        progress, rank = _Beats(len(corpus.index), beat), FeatureRank(world.rank, world.size)
        build_features(corpus.index, encoder, self.folder, self.dtype, progress, rank=rank)

    def _settle(self, last: Callable[[], None]) -> None:
        """Writes all that is queued, then `last`."""
        while self._queue:
            self._queue.popleft().result()
        with self._note_fault():
            if not self._fault:
                last()

    @contextmanager
    def _note_fault(self) -> Iterator[None]:
        try:
            yield
        except (UserError, OSError) as error:
            self._fault = str(getattr(error, "strerror", None) or error)

    def _faults(self) -> list[str]:
        return [fault for fault in self.world.gather(self._fault) if fault]


class _Beats(Silent):
    """Shows nothing, and calls `beat` at each advance."""

    def __init__(self, total: int, beat: Callable[[], None]) -> None:
        super().__init__(total)
        self._beat = beat

    def advance(self, n: int = 1, **figures: object) -> None:
        super().advance(n)
        self._beat()
