"""What observes a run without influence on its weights: the report, its warnings, and the metrics for monitors."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.json_lines import read_records
from data_prep.retries import retries
from train.data.loader import Share
from train.dist.collectives import World
from train.engine.checkpoint import State
from train.engine.loss_scale import LossScale
from train.engine.schedule import warmup_steps
from train.parts import Parts
from train.recipe.config import Config
from train.report.emergence import Emergence
from train.report.metrics import Report, StepResult, memory_bytes, open_report
from train.report.mishaps import Mishaps
from train.report.prometheus import Exporter, Gauges, open_exporter, open_gauges
from train.report.speed import CacheSpeed, StepTimer


@dataclass
class Observers:
    """One of each a rank."""

    report: Report
    mishaps: Mishaps
    emergence: Emergence
    cache_speed: CacheSpeed
    gauges: Gauges
    exporter: Exporter
    step_timer: StepTimer

    def say(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.report.say(line)

    def step_done(self, step: int, share: Share, result: StepResult, scale: LossScale, reads_retried: int) -> None:
        """Counts a step, which was the rank's `share`. A collective."""
        finite = math.isfinite(result.grad_norm)
        lowered = scale.update(finite)
        if finite:
            self.mishaps.step_was_fine()
        else:
            self.mishaps.skip(step, result.sums.loss, result.grad_norm, share.keys, lowered)
        reads_retried += retries()
        if reads_retried:
            self.report.note("read_again", reads_retried)
        self.say(self.cache_speed.step(step, result.sums))
        seconds, busy = self.step_timer.take()
        self.gauges.add(compute_seconds_total=busy, data_wait_seconds_total=share.waited)
        self.gauges.add(audio_seconds_total=share.seconds)
        self.gauges.set(step=step, step_seconds=seconds, last_step_timestamp_seconds=time.time())
        self.gauges.set(steps_skipped_total=self.mishaps.skipped, utterances_lost_total=self.mishaps.lost)
        self.gauges.set(reads_retried_total=reads_retried, memory_peak_bytes=memory_bytes())

    def audio_gap(self, step: int, gap: float | None) -> None:
        """Takes the result of a comparison with exchanged speech."""
        if gap is not None:
            self.report.note("audio_gap", gap)
            self.say(self.emergence.gap(step, gap))

    def report_step(self, step: int, epoch: int, result: StepResult) -> None:
        """Reports the steps since the last report, if one is due."""
        figures = self.report.step(step, epoch, result)
        if figures is not None and math.isfinite(figures["loss"]):
            self.say(self.emergence.accuracy(step, figures["accuracy"], figures["loss"]))


def open_observers(config: Config, world: World, parts: Parts, state: State, total_steps: int) -> Observers:
    """Of a run that resumes from `state`, if its step is not 0. A collective."""
    folder, step, corpus = Path(config.run.dir), state.step, parts.corpus
    report = open_report(folder, config, total_steps, step, world.first)
    report.also(gauges := open_gauges(folder, world, total_steps, step))
    max_lost = int(config.data.max_lost * len(corpus.ids))
    records = read_records(folder / "metrics.jsonl") if world.first else []
    warmup = warmup_steps(config.optim, total_steps)
    return Observers(
        report=report,
        mishaps=Mishaps(world, folder, report, max_lost, state),
        emergence=Emergence.from_metrics(records, config.watch.patience_steps, warmup),
        cache_speed=CacheSpeed(config.data.train if corpus.index.kind == "features" else (), step),
        gauges=gauges,
        exporter=open_exporter(config.log, world, folder, gauges, report.say),
        step_timer=StepTimer(parts.model.adapter.parameters(), world.device),
    )
