"""The metrics of a rank that Prometheus may scrape, served if the recipe has log.prometheus.

Metrics that are the same on all ranks, such as the loss, are rank 0's alone. Names ending in _total are counters.
No name and no label contains a transcript or a path.

RUN/prometheus/targets.json lists the endpoints of all ranks, labelled with run, rank and host, for Prometheus's file
discovery (file_sd). A run that ends in order removes it; after a crash it stays, so that Prometheus shows the targets
as down and alerts. No failure here ends a training."""

import json
import math
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from data_prep.durable import read_records, write_durably
from train.dist.collectives import World
from train.recipe.config import LogConfig
from train.recipe.kinds import ADDRESS_FORM

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
    "dev_hallucinated_words": "Words answered to the utterances of the dev set in which nothing is said.",
    "dev_silent_utterances": "Utterances of the dev set in which nothing is said.",
    "run_disk_free_bytes": "Free space on the disk of the run folder.",
    "checkpoint_bytes": "Size of the last checkpoint.",
    "checkpoint_timestamp_seconds": "When the last checkpoint was saved, in Unix time.",
}
FIGURES = {PREFIX + name: text for name, text in (OF_EVERY_RANK | OF_THE_FIRST_RANK).items()}
RENAMED = {"accuracy": "token_accuracy_ratio", "lr": "learning_rate", "grad_norm": "gradient_norm", "wer": "wer_ratio"}
JOB_IDS = ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "SKYPILOT_TASK_ID")
RESTART_COUNTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
IDLE_SECONDS = 10.0  # after which a connection that sends no request is closed


class Gauges:
    """The current values of this rank's metrics. One thread sets them, the server's threads read them."""

    def __init__(self, info: dict[str, str], folder: Path) -> None:
        """`info`: labels of run_info, without secrets and paths; `folder`: the run's."""
        self.info, self._folder = info, folder
        self.values: dict[str, float] = {}
        counts = (os.environ.get(name, "") for name in RESTART_COUNTS)
        restarts = next((int(text) for text in counts if text.isdecimal()), 0)
        self.set(run_info=1, restarts=restarts, last_progress_timestamp_seconds=time.time())

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
        """Closes nothing (as a Sink)."""

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
    job, own_version = next((os.environ[name] for name in JOB_IDS if os.environ.get(name)), ""), "unknown"
    with suppress(PackageNotFoundError):  # a checkout that was never installed
        own_version = version("slam-asr")
    gauges = Gauges({"version": own_version, "world_size": str(world.size), "job_id": job}, folder)
    gauges.set(planned_steps=total_steps, step=step)
    if world.first:
        with suppress(OSError):
            gauges.restore(read_records(folder / "metrics.jsonl"))
    return gauges


class Exporter:
    """This rank's endpoint and, on rank 0, the run's target files."""

    def __init__(self) -> None:
        self.targets: list[Path] = []  # files to remove after an orderly end
        self.orderly = False  # whether the run ended as it should, so that no alert may fire
        self._server: Any = None

    def serve(self, gauges: Gauges, address: str, local_rank: int) -> tuple[int, str]:
        """Starts the server on the port of `address` plus the local rank; if it is taken or none is given, on any free
        one. Returns the port (0 if there is none) and a warning (may be empty)."""
        from prometheus_client import CollectorRegistry, start_http_server

        registry = CollectorRegistry()  # without the client's own metrics of this process
        registry.register(gauges)
        (host, port), fault = host_and_port(address), ""
        for number in [port + local_rank, 0] if port else [0]:
            try:
                self._server, _ = start_http_server(number, host, registry)
            except (OSError, OverflowError, ValueError) as error:  # a port beyond 65535, a name that cannot be one
                fault = f"cannot serve metrics on {host}:{number or '(any port)'}: {error}"
                continue
            self._server.RequestHandlerClass.timeout = IDLE_SECONDS
            self._server.handle_error = lambda *_: None  # a client that went away is no error of the training
            own = self._server.server_port
            return own, f"{fault}; using port {own} instead" if fault else ""
        return 0, fault

    def close(self) -> None:
        """Stops serving, and removes the target files after an orderly end."""
        if self.orderly:
            _remove(self.targets)
        if self._server:
            self._server.shutdown()
            self._server.server_close()


def open_exporter(log: LogConfig, world: World, folder: Path, gauges: Gauges, say: Callable[[str], None]) -> Exporter:
    """This rank's exporter for the run in `folder`, serving if the recipe asks for it. A collective if it does."""
    exporter, name, host = Exporter(), folder.resolve().name, socket.gethostname()
    files = [folder / "prometheus" / "targets.json"]
    files += [Path(log.prometheus_targets) / f"{name}.json"] if log.prometheus_targets else []
    if log.prometheus is None:
        if world.first:
            _remove(files)  # of an earlier start that served and crashed
        return exporter
    port, warning = exporter.serve(gauges, log.prometheus, world.local_rank)
    target = f"{reachable_host(log.prometheus, host)}:{port}" if port else ""
    ranks = world.gather((target, {"run": name, "rank": str(world.rank), "host": host}, warning))
    if world.first:
        for rank, (_, _, warning) in enumerate(ranks):
            if warning:
                say(f"rank {rank}: {warning}; training goes on")
        exporter.targets = files
        groups = [{"targets": [target], "labels": labels} for target, labels, _ in ranks if target]
        for file in files:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_durably(file, json.dumps(groups, indent=1).encode())  # atomic: Prometheus may read at any moment
            except OSError as error:
                say(f"cannot write {file}: {error.strerror}; training goes on")
    return exporter


def host_and_port(address: str) -> tuple[str, int]:
    """Splits `0.0.0.0:9400`, `[::1]:9400`, `127.0.0.1` (port 0) or `9400` (on 127.0.0.1)."""
    if address.isdecimal():
        return "127.0.0.1", int(address)
    match = ADDRESS_FORM.fullmatch(address)
    assert match  # the recipe was checked
    return match[1].strip("[]"), int(match[2] or 0)


def reachable_host(address: str, hostname: str) -> str:
    """The host under which others reach a server bound to `address`: `hostname` if it listens on all interfaces."""
    host, _ = host_and_port(address)
    with suppress(ValueError):  # a name
        if ip_address(host).is_unspecified:
            return hostname
    return f"[{host}]" if ":" in host else host


def _remove(files: Sequence[Path]) -> None:
    for file in files:
        with suppress(OSError):
            file.unlink(missing_ok=True)
