"""Write-through: the frames that the encoder computes in the first epoch are kept, and read from the second on.

    1. In epoch 0 a micro-batch is encoded first, and a thread of each rank writes its frames, in shards of the rank's
       own (`encoded`).
    2. Before every checkpoint they are published: what a resumed run does not meet again is there (`publish`).
    3. After the last step of epoch 0, beyond which nothing is read ahead, what the epoch did not meet is encoded too,
       the directory gets its index, and the loader reads frames from there (`complete`).

It is an ordinary feature directory, for `data.train` of other runs. A full disk ends the keeping, not the run.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from data_prep.features.build import FeatureRank, build_features
from data_prep.features.writer import FeatureWriter
from data_prep.progress import Silent
from data_prep.shards.index import INDEX_NAME
from data_prep.shards.opening import read_index
from model.batch import Batch
from model.errors import UserError
from train.data.corpus import Corpus
from train.data.loader import Loader, Slot
from train.dist.collectives import World, decided_by_first, together
from train.engine.engine import Engine
from train.recipe.config import DataConfig
from train.report.metrics import Report

WAITING = 4  # micro-batches whose frames wait for the disk: what bounds the memory
LATE_SHARE = 0.1  # of the audio: more than that is not encoded while the GPUs wait for the next epoch


class Keeping:
    """The feature directory of a run: in the making, made, or given up."""

    def __init__(
        self, data: DataConfig, corpus: Corpus, engine: Engine, loader: Loader, world: World, report: Report
    ) -> None:
        assert data.write_features is not None
        self.folder, self.dtype, self.corpus = Path(data.write_features), data.feature_dtype, corpus
        self.engine, self.loader, self.world, self.report = engine, loader, world, report
        self._writer: FeatureWriter | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="features")
        self._written: deque[Future[None]] = deque()
        self._fault = ""

    def begin(self, epoch: int, beat: Callable[[], None]) -> None:
        """Goes on where a run in this epoch left. A collective; UserError if the directory is of something else."""
        self._writer = together(self.world, self._open)
        self.loader.holds = True
        if epoch > 0:
            self.complete(beat)

    def encoded(self, slot: Slot) -> Batch:
        """The micro-batch; while the cache is filled, with frames in place of its audio, and these are kept."""
        if self._writer is None:
            return slot.batch
        batch = self.engine.encode(slot.batch)
        if slot.counts and not self._fault:
            while len(self._written) >= WAITING:
                self._written.popleft().result()
            self._written.append(self._thread.submit(self._write, self._writer, batch))
        return batch

    def publish(self) -> None:
        """What was kept so far is on disk when this returns, or the keeping is given up. A collective."""
        if self._writer is None:
            return
        self._settle(self._writer.flush)
        faults = [fault for fault in self.world.gather(self._fault) if fault]
        if faults:
            self._writer.abandon()
            self._writer, self.loader.holds = None, False
            self.report.say(
                f"features are no longer kept: {faults[0]}; what is in {self.folder} stays, and `slam-asr prep "
                "features` makes the rest"
            )

    def complete(self, beat: Callable[[], None]) -> None:
        """Ends the filling: the loader reads frames from the next epoch on, if all are there. A collective.

        `beat` is called while it takes time.
        """
        self.publish()
        if self._writer is None:
            return
        self._settle(self._writer.close)
        self._writer = None
        self.world.barrier()  # all have published
        self._encode_what_is_missing(beat)
        self.loader.holds = False
        self._read_from_now_on()

    def _open(self) -> FeatureWriter:
        encoder, world = self.engine.model.encoder, self.world
        if encoder is None or self.corpus.index.kind != "audio":
            raise UserError("data.write_features keeps the frames of audio, data.train holds features; leave it out")
        return FeatureWriter(
            self.folder, self.corpus.index, encoder.fingerprint(), self.dtype, rank=world.rank, size=world.size
        )

    def _write(self, writer: FeatureWriter, batch: Batch) -> None:
        assert batch.features is not None
        frames = batch.features.cpu().split(batch.feature_cu.diff().tolist())
        try:
            for key, of_one in zip(batch.keys, frames, strict=True):
                if not self._fault and not writer.has(key):
                    writer.add(key, of_one)
        except (UserError, OSError) as error:
            self._fault = _told(error)

    def _settle(self, last: Callable[[], None]) -> None:
        """All that waits is written, then `last`; a fault is remembered."""
        while self._written:
            self._written.popleft().result()
        try:
            if not self._fault:
                last()
        except (UserError, OSError) as error:
            self._fault = _told(error)

    def _encode_what_is_missing(self, beat: Callable[[], None]) -> None:
        """Left out by the recipe's limits, or lost. Each rank its share; none waits for another here."""
        index, encoder, world = self.corpus.index, self.engine.model.encoder, self.world
        assert encoder is not None
        left = 1 - float(self.corpus.seconds[self.corpus.ids].sum()) / index.seconds
        if left > LATE_SHARE:
            self._fault = f"{left:.0%} of the audio is not in the recipe's epoch"
            return
        try:
            rank, progress = FeatureRank(world.rank, world.size), _Beats(len(index), beat)
            build_features(index, encoder, self.folder, self.dtype, progress, rank=rank)
        except (UserError, OSError) as error:
            self._fault = _told(error)

    def _read_from_now_on(self) -> None:
        """A collective."""
        faults = [fault for fault in self.world.gather(self._fault) if fault]
        if not decided_by_first(self.world, lambda: (self.folder / INDEX_NAME).exists()):
            why = f": {faults[0]}" if faults else ""
            self.report.say(f"{self.folder} does not hold all features{why}; this run goes on encoding")
            return
        self.loader.corpus = together(self.world, lambda: self.corpus.cached_in(read_index(self.folder)))
        self.report.say(f"features are read from {self.folder} from here on, the encoder rests")


def _told(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


class _Beats(Silent):
    """Shows nothing, and says that something moves."""

    def __init__(self, total: int, beat: Callable[[], None]) -> None:
        super().__init__(total)
        self._beat = beat

    def advance(self, n: int = 1, **figures: object) -> None:
        super().advance(n)
        self._beat()
