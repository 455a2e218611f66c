"""The figures of a rank that a monitor may ask for: one table of names, and their values now. exporter.py shows them.

Every rank holds its own; a step costs a handful of assignments, and nothing is sent anywhere. Figures that are the same
on all ranks, such as the loss, are the first rank's alone. No name and no label says what is heard or where data lies.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from train.dist.collectives import World

PREFIX = "slam_asr_"


@dataclass(frozen=True)
class Figure:
    """What a figure says; `counts` if it only grows: a counter, which starts anew with each process unless said."""

    help: str
    counts: bool = False


OF_EVERY_RANK = {
    "step": Figure("Optimizer steps done."),
    "planned_steps": Figure("Optimizer steps of the whole run."),
    "last_step_timestamp_seconds": Figure("When the last step was done, in Unix time."),
    "last_progress_timestamp_seconds": Figure("When this rank last moved, in a step or not, in Unix time."),
    "step_seconds": Figure("Duration of the last step."),
    "compute_seconds_total": Figure("Time in which this rank was busy with steps and did not wait for others.", True),
    "data_wait_seconds_total": Figure("Time in which this rank waited for data.", True),
    "audio_seconds_total": Figure("Audio that this rank has trained on.", True),
    "steps_skipped_total": Figure("Steps of the run, on all ranks, that were not finite and changed nothing.", True),
    "utterances_lost_total": Figure("Utterances of the run, on all ranks, that could not be read.", True),
    "reads_retried_total": Figure("Reads that this rank tried again.", True),
    "memory_peak_bytes": Figure("Most memory used: of the GPU, or of the host where there is none."),
    "restarts": Figure("Restarts of the job so far, as Slurm or torchrun count them."),
    "run_info": Figure("1; what runs here stands in the labels."),
}
OF_THE_FIRST_RANK = {
    "loss": Figure("Mean loss an answer token in the last report, in nats."),
    "token_accuracy_ratio": Figure("Share of answer tokens predicted in the last report."),
    "learning_rate": Figure("Learning rate of the last step."),
    "gradient_norm": Figure("Norm of the last gradient before clipping; not finite where its step was skipped."),
    "audio_gap": Figure("Loss with exchanged speech less the loss with the true one, in nats a token."),
    "dev_loss": Figure("Mean loss an answer token on the dev set, in nats."),
    "dev_token_accuracy_ratio": Figure("Share of answer tokens predicted on the dev set."),
    "dev_wer_ratio": Figure("Word error rate on the dev set."),
    "dev_best_wer_ratio": Figure("Lowest word error rate on the dev set so far."),
    "run_disk_free_bytes": Figure("Free space on the disk of the run's folder."),
    "checkpoint_bytes": Figure("Size of the last checkpoint."),
    "checkpoint_timestamp_seconds": Figure("When the last checkpoint was saved, in Unix time."),
}
FIGURES = {PREFIX + name: figure for name, figure in (OF_EVERY_RANK | OF_THE_FIRST_RANK).items()}
"""Every figure by its full name."""

REPORTED = {  # of a report (metrics.py), by kind and name: what a monitor calls it
    ("train", "loss"): "loss",
    ("train", "accuracy"): "token_accuracy_ratio",
    ("train", "lr"): "learning_rate",
    ("train", "grad_norm"): "gradient_norm",
    ("train", "audio_gap"): "audio_gap",
    ("dev", "loss"): "dev_loss",
    ("dev", "accuracy"): "dev_token_accuracy_ratio",
    ("dev", "wer"): "dev_wer_ratio",
}
JOB_IDS = ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "SKYPILOT_TASK_ID")
RESTART_COUNTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")


class Gauges:
    """The values of this rank's figures. One thread sets them, others read."""

    def __init__(self, info: dict[str, str], folder: Path) -> None:
        """`info` are the labels of run_info: no secrets, no paths. `folder` is the run's."""
        self.info, self._folder = info, folder
        self.values: dict[str, float] = {}
        self.set(run_info=1, restarts=restarts(), last_progress_timestamp_seconds=time.time())

    def set(self, **figures: float) -> None:
        """Figures by name without the prefix; one that a table does not have is a fault of ours."""
        for name, value in figures.items():
            assert PREFIX + name in FIGURES, name
            self.values[PREFIX + name] = value

    def add(self, **figures: float) -> None:
        """The same, on top of what there is; what is not finite is passed over, as a counter never recovers from it."""
        for name, value in figures.items():
            if math.isfinite(value):
                self.set(**{name: self.values.get(PREFIX + name, 0.0) + value})

    def moved(self) -> None:
        """This rank is alive and at work."""
        self.values[PREFIX + "last_progress_timestamp_seconds"] = time.time()

    def write(self, step: int, kind: str, figures: dict[str, float]) -> None:
        """What a report says, as a Sink of the first rank."""
        self.set(**{name: figures[own] for (of, own), name in REPORTED.items() if of == kind and own in figures})
        with suppress(OSError):
            self.set(run_disk_free_bytes=shutil.disk_usage(self._folder).free)
        if kind == "dev" and math.isfinite(wer := figures.get("wer", math.nan)):
            self.set(dev_best_wer_ratio=min(wer, self.values.get(PREFIX + "dev_best_wer_ratio", wer)))

    def remember(self, lines: Iterable[str]) -> None:
        """What metrics.jsonl tells of the run so far, so that a restart leaves no gap: the dev set above all."""
        for line in lines:
            with suppress(ValueError, TypeError, KeyError, AttributeError):  # a line that is none of ours
                told = json.loads(line)
                numbers = {name: float(value) for name, value in told.items() if isinstance(value, int | float)}
                self.write(told["step"], told["kind"], numbers)

    def close(self) -> None:
        """As a Sink; nothing is open."""


def open_gauges(folder: Path, world: World, total_steps: int, step: int) -> Gauges:
    """This rank's gauges in a run that goes on from `step`; the first rank's know what its metrics.jsonl tells."""
    job = next((os.environ[name] for name in JOB_IDS if os.environ.get(name)), "")
    info = {"version": _version(), "world_size": str(world.size), "job_id": job}
    gauges = Gauges(info, folder)
    gauges.set(planned_steps=total_steps, step=step)
    if world.first:
        with suppress(OSError):
            gauges.remember((folder / "metrics.jsonl").read_text(errors="replace").splitlines())
    return gauges


def _version() -> str:
    try:
        return version("slam-asr")
    except PackageNotFoundError:  # a checkout that was never installed
        return "unknown"


def restarts() -> int:
    """How often the job was started again, as whoever starts it says in the environment; 0 where nobody does."""
    said = (os.environ.get(name, "") for name in RESTART_COUNTS)
    return next((int(text) for text in said if text.isdecimal()), 0)
