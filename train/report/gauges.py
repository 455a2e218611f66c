"""The metrics of a rank that Prometheus may scrape (prometheus.py): their names, help texts and current values.

Metrics that are the same on all ranks, such as the loss, are rank 0's alone. Names ending in _total are counters.
No name and no label contains a transcript or a path.
"""

import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data_prep.json_lines import read_records
from train.dist.collectives import World

PREFIX = "slam_asr_"
OF_EVERY_RANK = {
    "step": "Optimizer steps done.",
    "planned_steps": "Optimizer steps of the whole run.",
    "last_step_timestamp_seconds": "When the last step was done, in Unix time.",
    "last_progress_timestamp_seconds": "When this rank last made progress, in a step or not, in Unix time.",
    "step_seconds": "Duration of the last step.",
    "compute_seconds_total": "Time in which this rank was busy with steps and did not wait for others.",
    "data_wait_seconds_total": "Time in which this rank waited for data.",
    "audio_seconds_total": "Audio that this rank has trained on.",
    "steps_skipped_total": "Steps of the run, on all ranks, that were not finite and changed nothing.",
    "utterances_lost_total": "Utterances of the run, on all ranks, that could not be read.",
    "reads_retried_total": "Reads that this rank repeated.",
    "memory_peak_bytes": "Peak memory: of the GPU, or of the host without one.",
    "restarts": "Restarts of the job so far, as Slurm or torchrun count them.",
    "run_info": "1; version, number of ranks and job are its labels.",
}
OF_THE_FIRST_RANK = {
    "loss": "Mean loss of an answer token in the last report, in nats.",
    "token_accuracy_ratio": "Share of answer tokens predicted in the last report.",
    "learning_rate": "Learning rate of the last step.",
    "gradient_norm": "Norm of the last gradient before clipping; not finite where its step was skipped.",
    "audio_gap": "Loss with exchanged speech less the loss with the true one, in nats a token.",
    "dev_loss": "Mean loss of an answer token on the dev set, in nats.",
    "dev_token_accuracy_ratio": "Share of answer tokens predicted on the dev set.",
    "dev_wer_ratio": "Word error rate on the dev set.",
    "dev_best_wer_ratio": "Lowest word error rate on the dev set so far.",
    "run_disk_free_bytes": "Free space on the disk of the run folder.",
    "checkpoint_bytes": "Size of the last checkpoint.",
    "checkpoint_timestamp_seconds": "When the last checkpoint was saved, in Unix time.",
}
FIGURES = {PREFIX + name: text for name, text in (OF_EVERY_RANK | OF_THE_FIRST_RANK).items()}
"""Help texts by full name."""
RENAMED = {"accuracy": "token_accuracy_ratio", "lr": "learning_rate", "grad_norm": "gradient_norm", "wer": "wer_ratio"}
"""Figures of a report that have another name here; those of the dev set begin with dev_."""
JOB_IDS = ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "SKYPILOT_TASK_ID")
RESTART_COUNTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")


class Gauges:
    """The current values of this rank's metrics. One thread sets them, the server's threads read them."""

    def __init__(self, info: dict[str, str], folder: Path) -> None:
        """`info`: labels of run_info, without secrets and paths; `folder`: the run's."""
        self.info, self._folder = info, folder
        self.values: dict[str, float] = {}
        self.set(run_info=1, restarts=restarts(), last_progress_timestamp_seconds=time.time())

    def set(self, **figures: float) -> None:
        """Sets metrics by name without the prefix."""
        for name, value in figures.items():
            assert PREFIX + name in FIGURES, name
            self.values[PREFIX + name] = value

    def add(self, **figures: float) -> None:
        """Adds to metrics. Values that are not finite are ignored, as a counter would never recover from them."""
        for name, value in figures.items():
            if math.isfinite(value):
                self.set(**{name: self.values.get(PREFIX + name, 0.0) + value})

    def moved(self) -> None:
        """This rank has made progress."""
        self.set(last_progress_timestamp_seconds=time.time())

    def write(self, step: int, kind: str, figures: dict[str, float]) -> None:
        """Takes the figures of a report (as a Sink)."""
        prefix = "dev_" if kind == "dev" else ""
        named = {prefix + RENAMED.get(name, name): value for name, value in figures.items()}
        self.set(**{name: value for name, value in named.items() if name in OF_THE_FIRST_RANK})
        with suppress(OSError):
            self.set(run_disk_free_bytes=shutil.disk_usage(self._folder).free)
        if kind == "dev" and math.isfinite(wer := figures.get("wer", math.nan)):
            self.set(dev_best_wer_ratio=min(wer, self.values.get(PREFIX + "dev_best_wer_ratio", wer)))

    def close(self) -> None:
        """Nothing is open (as a Sink)."""

    def restore(self, records: Iterable[dict[str, Any]]) -> None:
        """Takes the figures of earlier reports (records of metrics.jsonl), so that a restart leaves no gap."""
        for record in records:
            if isinstance(record.get("kind"), str):
                numbers = {name: float(value) for name, value in record.items() if isinstance(value, int | float)}
                self.write(0, record["kind"], numbers)

    def collect(self) -> Iterator[Any]:
        """The values as prometheus_client's metric families (its Collector protocol)."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for name, value in list(self.values.items()):
            labels = self.info if name == f"{PREFIX}run_info" else {}
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(name, FIGURES[name], labels=list(labels))
            family.add_metric(list(labels.values()), value)
            yield family


def open_gauges(folder: Path, world: World, total_steps: int, step: int) -> Gauges:
    """This rank's gauges in a run that resumes at `step`; rank 0's start with what metrics.jsonl holds."""
    job = next((os.environ[name] for name in JOB_IDS if os.environ.get(name)), "")
    gauges = Gauges({"version": _version(), "world_size": str(world.size), "job_id": job}, folder)
    gauges.set(planned_steps=total_steps, step=step)
    if world.first:
        with suppress(OSError):
            gauges.restore(read_records(folder / "metrics.jsonl"))
    return gauges


def _version() -> str:
    try:
        return version("slam-asr")
    except PackageNotFoundError:  # a checkout that was never installed
        return "unknown"


def restarts() -> int:
    """How often the job was restarted, by the launcher's environment variables; 0 if they do not tell."""
    counts = (os.environ.get(name, "") for name in RESTART_COUNTS)
    return next((int(text) for text in counts if text.isdecimal()), 0)
