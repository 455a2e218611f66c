"""A run: everything that training touches, and what it does between the steps. open_run.py makes one."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.retries import retries
from model.batch import Batch
from model.errors import UserError
from model.weights import AdapterCard
from train.data.loader import Loader, Share, Slot
from train.dist.collectives import World, decided_by_first, together
from train.engine.checkpoint import Checkpoint, State, clear_leftovers, keep_newest, mark_best, save_checkpoint
from train.engine.engine import Engine
from train.feature_cache import Keeping
from train.liveness import stop
from train.liveness.exit_status import FINISHED, STOPPED
from train.liveness.watchdog import Watchdog
from train.recipe.config import Config
from train.recipe.identity import result_fields
from train.recipe.kinds import decided
from train.report.cache_speed import CacheSpeed
from train.report.emergence import Emergence
from train.report.evaluate import Evaluator, audio_gap, better
from train.report.gauges import Gauges
from train.report.metrics import Report, StepResult, memory_bytes
from train.report.mishaps import Mishaps
from train.report.prometheus import Exporter
from train.report.step_sums import StepSums
from train.report.step_timer import StepTimer
from train.run_folder import write_file


@dataclass
class Run:
    """Everything that `fit` touches."""

    config: Config
    world: World
    folder: Path
    engine: Engine
    loader: Loader
    report: Report
    evaluator: Evaluator | None
    card: AdapterCard
    data: str
    """Identity of the training data."""
    total_steps: int
    step: int
    """Optimizer steps done."""
    best: float | None
    """Best score on the dev set, lower is better, and the step that has it; None before the first."""
    best_step: int | None
    mishaps: Mishaps
    watchdog: Watchdog
    emergence: Emergence
    keeping: Keeping | None
    reading: CacheSpeed
    gauges: Gauges
    exporter: Exporter
    pace: StepTimer

    def at(self, where: str) -> None:
        """Tells the watchdog, and monitors, where this rank stands."""
        self.watchdog.at(where, self.step)
        self.gauges.moved()

    def check(self, coming: Share, tally: StepSums) -> None:
        """Ends the run on all ranks if one could not read its part of the coming step; names what is left out of it.

        A collective.
        """
        if tally.faults:
            together(self.world, coming.check)
        if tally.lost:
            self.mishaps.lose(self.step + 1, coming.lost)

    def account(self, share: Share, result: StepResult) -> None:
        """Counts the step that is done: its figures, its mishaps, whether the LLM listens. A collective."""
        finite = math.isfinite(result.grad_norm)
        lowered = self.engine.scale.update(finite)
        if finite:
            self.mishaps.step_was_fine()
        else:
            self.mishaps.skip(self.step, result.sums.loss, result.grad_norm, share.keys, lowered)
        read_again = self.loader.retries + retries()
        if read_again:
            self.report.note("read_again", read_again)
        self._say(self.reading.step(self.step, result.sums))
        self._gauge(share, read_again)
        every = self.config.watch.every_steps
        if every is not None and self.step % every == 0:
            self._ablate(share)
        figures = self.report.step(self.step, self.loader.epochs.locate(self.step - 1)[0], result)
        if figures is not None and math.isfinite(figures["loss"]):
            self._say(self.emergence.accuracy(self.step, figures["accuracy"], figures["loss"]))

    def _gauge(self, share: Share, read_again: int) -> None:
        """This rank's figures for monitors, which ask each rank."""
        seconds, busy = self.pace.take()
        self.gauges.add(compute_seconds_total=busy, data_wait_seconds_total=share.waited)
        self.gauges.add(audio_seconds_total=share.seconds)
        self.gauges.set(step=self.step, step_seconds=seconds, last_step_timestamp_seconds=time.time())
        self.gauges.set(steps_skipped_total=self.mishaps.skipped, utterances_lost_total=self.mishaps.lost)
        self.gauges.set(reads_retried_total=read_again, memory_peak_bytes=memory_bytes())

    def _ablate(self, share: Share) -> None:
        self.at("comparing with exchanged speech")
        gap = audio_gap(self.engine, share, self.world)
        if gap is not None:
            self.report.note("audio_gap", gap)
            self._say(self.emergence.gap(self.step, gap))

    def _say(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.report.say(line)

    def encoded(self, slot: Slot) -> Batch:
        """The micro-batch as the model takes it; with frames that are kept, where the recipe says so."""
        self.pace.begin()
        return self.keeping.encoded(slot) if self.keeping else slot.batch

    def complete_features(self) -> None:
        """After the last step of the first epoch its frames are what later ones read. A collective, if any are kept."""
        if self.keeping and self.loader.epochs.locate(self.step + 1) == (1, 0):
            self.keeping.complete(lambda: self.at("completing the features"))

    def epoch_ends(self, step: int) -> bool:
        """Whether the epoch is over after `step` steps."""
        return self.loader.epochs.locate(step)[1] == 0

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps."""
        save = self.config.save
        due = self.epoch_ends(step) if save.strategy == "epoch" else step % decided(save.every_steps) == 0
        return due or step == self.total_steps

    def evaluates(self, step: int) -> bool:
        """Whether validation is due after `step` steps."""
        every = self.config.eval.every_steps
        return self.saves(step) if every is None else step % decided(every) == 0 or step == self.total_steps

    def evaluate(self) -> bool:
        """Scores the dev set, if there is one; True if no checkpoint was as good. A collective."""
        if self.evaluator is None:
            return False
        scores = self.evaluator(self.engine, self.step, self.at)
        self.report.evaluation(self.step, scores)
        best = better(scores, self.config.save.best, self.best)
        if best is not None:
            self.best, self.best_step = best, self.step
        return best is not None

    def save(self) -> None:
        """A checkpoint of this step, written by rank 0; all ranks know whether it succeeded. A collective."""
        self.at("saving")
        if self.keeping:
            self.keeping.publish()
        state = State(
            step=self.step,
            recipe=result_fields(self.config),
            data=self.data,
            plan=self.loader.epochs.digest,
            world_size=self.world.size,
            skipped=self.mishaps.skipped,
            lost=self.mishaps.lost,
            loss_scale=(self.engine.scale.value, self.engine.scale.steady),
            best=self.best,
            best_by=self.config.save.best,
            best_step=self.best_step,
        )
        card = replace(self.card, step=self.step)
        checkpoint = Checkpoint(card, self.engine.adapter_weights(), self.engine.moments(), state)
        decided_by_first(self.world, lambda: self._write(checkpoint))

    def _write(self, checkpoint: Checkpoint) -> None:
        folder = self.folder / "checkpoints"
        size = sum(t.nbytes for t in (checkpoint.weights | checkpoint.moments).values())
        clear_leftovers(folder)  # of a save that was killed: this one may need the space
        try:
            save_checkpoint(folder, checkpoint)
            if self.best_step is not None:
                mark_best(folder, self.best_step)
            if self.config.save.total_limit is not None:
                keep_newest(folder, self.config.save.total_limit, self.step)
            clear_leftovers(folder)
        except OSError as error:
            clear_leftovers(folder)
            raise UserError(
                f"cannot save a checkpoint of {size:,} bytes in {folder}: {error.strerror}; earlier ones are whole, "
                "mend this and give the same command again"
            ) from error
        self.gauges.set(checkpoint_bytes=size, checkpoint_timestamp_seconds=time.time())

    def stopped(self) -> None:
        """Marks the run as stopped when asked; the same command goes on. A collective."""
        reason = next(reason for reason in self.world.gather(stop.reason()) if reason)
        self._mark(STOPPED, f"{self.step} {reason}\n")
        self.report.say(f"stopped as asked ({reason}) after step {self.step}; the same command goes on from there")

    def finish(self) -> None:
        """Marks the run as finished: the only proof of success, as exit codes of launchers are none. A collective."""
        self._mark(FINISHED, f"{self.step}\n")
        self.report.say(f"finished at step {self.step}: {self.folder / 'checkpoints'}")

    def _mark(self, name: str, text: str) -> None:
        decided_by_first(self.world, lambda: write_file(self.folder / name, text.encode()))
        self.exporter.orderly = True

    def failed(self) -> None:
        """Before the error that ended the run is printed: its progress bar ends.

        Does not return after a verdict of the watchdog: the error is a lost connection, and came of the others' end.
        """
        self.watchdog.hold_after_verdict()
        self.report.end_bar()

    def close(self) -> None:
        """After the last step, or whatever ended it."""
        self.watchdog.close()
        self.exporter.close()
        self.report.close()
