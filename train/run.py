"""A run: everything that training touches, and what it does between the steps. open_run.py makes one."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.progress import clock
from data_prep.retries import retries
from model.batch import Batch
from model.errors import UserError, counted
from train.data.loader import Loader, Share, Slot
from train.dist.collectives import World, all_ranks_or_raise, rank0_broadcast
from train.engine.checkpoint import Checkpoint, State, clear_leftovers, keep_newest, mark_best, save_checkpoint
from train.engine.engine import Engine
from train.engine.schedule import warmup_steps
from train.feature_cache import FeatureCache
from train.liveness import stop
from train.liveness.exit_status import FINISHED, STOPPED
from train.liveness.watchdog import RankStatus, Watchdog
from train.parts import Parts
from train.recipe.config import Config
from train.recipe.identity import result_fields
from train.recipe.kinds import decided
from train.report.emergence import Emergence
from train.report.evaluate import Evaluator, audio_gap, better, counts
from train.report.metrics import Report, StepResult, StepSums, memory_bytes
from train.report.mishaps import Mishaps
from train.report.overfitting import Overfitting
from train.report.prometheus import Exporter, Gauges
from train.report.sinks import shown
from train.report.speed import CacheSpeed, StepTimer
from train.report.time_left import reports, seconds_of
from train.run_folder import write_file


@dataclass
class Observers:
    """What observes a run without influence on its weights: the report, its warnings, the metrics for monitors."""

    report: Report
    mishaps: Mishaps
    emergence: Emergence
    overfitting: Overfitting
    cache_speed: CacheSpeed
    gauges: Gauges
    exporter: Exporter
    step_timer: StepTimer

    def say(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.report.say(line)


@dataclass
class Run:
    """Everything that `fit` touches."""

    config: Config
    world: World
    folder: Path
    parts: Parts
    engine: Engine
    loader: Loader
    evaluator: Evaluator | None
    features: FeatureCache | None
    watchdog: Watchdog
    observers: Observers
    total_steps: int
    step: int  # optimizer steps done
    best: float | None  # best score on the dev set, lower is better, and the step that has it; None before the first
    best_step: int | None
    misses: int  # evaluations since best_step that count for eval.patience

    @property
    def done(self) -> bool:
        """Whether the last step is done, or patience has run out; the same on every rank."""
        return self.step >= self.total_steps or self._out_of_patience

    @property
    def _out_of_patience(self) -> bool:
        return self.config.eval.patience is not None and self.misses >= self.config.eval.patience

    def at(self, status: RankStatus) -> None:
        """Shows the watchdog, and monitors, what this rank is doing."""
        self.watchdog.at(status, self.step)
        self.observers.gauges.set(last_progress_timestamp_seconds=time.time())

    def check(self, share: Share, sums: StepSums) -> None:
        """Ends the run on all ranks if one could not read its share of the next step; counts what the step lacks. A
        collective."""
        if sums.faults:
            all_ranks_or_raise(self.world, share.check)
        if sums.lost:
            self.observers.mishaps.lose(self.step + 1, share.lost)

    def account(self, share: Share, result: StepResult) -> None:
        """Counts and reports the step that is done. A collective."""
        step, observers = self.step, self.observers
        report, mishaps, gauges = observers.report, observers.mishaps, observers.gauges
        finite = math.isfinite(result.grad_norm)
        scale_lowered = self.engine.scale.update(finite)
        if finite:
            mishaps.step_was_fine()
        else:
            mishaps.skip(step, result.sums.loss, result.grad_norm, share.keys, scale_lowered)
        if reads_retried := self.loader.retries + retries():
            report.note("read_again", reads_retried)
        observers.say(observers.cache_speed.step(step, result.sums))
        seconds, busy = observers.step_timer.take()
        gauges.add(compute_seconds_total=busy, data_wait_seconds_total=share.waited, audio_seconds_total=share.seconds)
        gauges.set(step=step, step_seconds=seconds, last_step_timestamp_seconds=time.time())
        gauges.set(steps_skipped_total=mishaps.skipped, utterances_lost_total=mishaps.lost)
        gauges.set(reads_retried_total=reads_retried, memory_peak_bytes=memory_bytes())
        every = self.config.watch.every_steps
        if every is not None and step % decided(every) == 0:
            self.at(RankStatus.ABLATING)
            if (gap := audio_gap(self.engine, share, self.world)) is not None:
                report.note("audio_gap", gap)
                observers.say(observers.emergence.gap(step, gap))
        figures = report.step(step, self.loader.epochs.locate(step - 1)[0], result)
        if figures is not None and math.isfinite(figures["loss"]):
            observers.overfitting.training(figures["accuracy"], figures["loss"])
            observers.say(observers.emergence.accuracy(step, figures["accuracy"], figures["loss"]))

    def encoded(self, slot: Slot) -> Batch:
        """The micro-batch as the model takes it: with frames, if the recipe keeps them."""
        self.observers.step_timer.begin()
        return self.features.encoded(slot) if self.features else slot.batch

    def complete_features(self) -> None:
        """After the last step of the first epoch, later ones read its frames. A collective, if any are kept."""
        if self.features and self.loader.epochs.locate(self.step + 1) == (1, 0):
            self.features.complete(lambda: self.at(RankStatus.COMPLETING_FEATURES))

    def save_due(self) -> bool:
        """Whether a checkpoint is due after this step."""
        by_epoch, every = self.config.save.strategy == "epoch", decided(self.config.save.every_steps)
        due = self.loader.epochs.locate(self.step)[1] == 0 if by_epoch else self.step % every == 0
        return due or self.done

    def eval_due(self) -> bool:
        """Whether validation is due after this step."""
        every = self.config.eval.every_steps
        return self.save_due() if every is None else self.step % decided(every) == 0 or self.done

    def evaluate(self) -> bool:
        """Scores the dev set, if there is one; True if no checkpoint was as good. A collective."""
        if self.evaluator is None:
            return False
        scores = self.evaluator(self.engine, self.step, self.at)
        self.observers.report.evaluation(self.step, scores)
        self.observers.say(self.observers.overfitting.evaluation(self.step, scores))
        by = self.config.save.best
        best = better(scores, by, self.best)
        if best is not None:
            self.best, self.best_step, self.misses = best, self.step, 0
        elif counts(by, self.best) and self.step > warmup_steps(self.config.optim, self.total_steps):
            self.misses += 1
        return best is not None

    def save(self) -> None:
        """A checkpoint of this step, written by rank 0; all ranks know whether it succeeded. A collective."""
        self.at(RankStatus.SAVING)
        if self.features:
            self.features.publish()
        state = State(
            step=self.step,
            recipe=result_fields(self.config, self.parts.init_sha256),
            data=self.parts.corpus.index.digest(),
            plan=self.loader.epochs.digest,
            world_size=self.world.size,
            skipped=self.observers.mishaps.skipped,
            lost=self.observers.mishaps.lost,
            loss_scale=(self.engine.scale.value, self.engine.scale.steady),
            best=self.best,
            best_by=self.config.save.best,
            best_step=self.best_step,
            misses=self.misses,
            dev=self.parts.dev.chosen if self.parts.dev else None,
        )
        card = replace(self.parts.card, step=self.step)
        checkpoint = Checkpoint(card, self.engine.weights(), self.engine.moments(), state)
        rank0_broadcast(self.world, lambda: self._write(checkpoint))

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
        except OSError as error:
            raise UserError(
                f"cannot save a checkpoint of {size:,} bytes in {folder}: {error.strerror}; earlier ones are whole, "
                "mend this and give the same command again"
            ) from error
        finally:
            clear_leftovers(folder)
        self.observers.gauges.set(checkpoint_bytes=size, checkpoint_timestamp_seconds=time.time())

    def mark_stopped(self) -> None:
        """Marks the run as stopped when asked; the same command goes on. A collective."""
        reason = next(reason for reason in self.world.gather(stop.reason()) if reason)
        line = f"stopped as asked ({reason}) after step {self.step}; the same command goes on from there"
        self._mark(STOPPED, f"{self.step} {reason}\n", line)

    def mark_finished(self) -> None:
        """Marks the run as finished: the only proof of success, as exit codes of launchers are none. A collective."""
        by, why = self.config.save.best, ""
        if self.step < self.total_steps:
            why = f"no better {by} in {counted(self.misses, 'evaluation')} (eval.patience)"
        spent = clock(rank0_broadcast(self.world, lambda: seconds_of(reports(self.folder))))
        line = f"finished at step {self.step}, after {spent}{why and ': '}{why}; {self.folder / 'checkpoints'}"
        if self.best is not None:
            line += f": the best {by} is {shown(by, abs(self.best))}, of step {self.best_step}; "
            line += "score, transcribe and export take that step from the run"
        self._mark(FINISHED, f"{self.step}{why and ' '}{why}\n", line)

    def _mark(self, name: str, content: str, line: str) -> None:
        rank0_broadcast(self.world, lambda: write_file(self.folder / name, content.encode()))
        self.observers.exporter.orderly = True
        self.observers.report.say(line)

    def failed(self) -> None:
        """Ends the progress bar before an error is printed. Does not return after a verdict of the watchdog."""
        self.watchdog.hold_after_verdict()
        self.observers.report.end_bar()

    def close(self) -> None:
        """After the last step or an error."""
        self.watchdog.close()
        self.observers.exporter.close()
        self.observers.report.close()
