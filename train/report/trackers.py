"""W&B and MLflow as sinks (metrics.py): figures of a report under `train/` and `dev/`, the recipe without paths.

Each is imported only when asked for. Both talk to servers, so they live in a thread of their own (`Aside`): one that
cannot be reached holds nobody up, is said once, and is done without. A run that goes on is the same run there: its id
is kept in the run's folder.
"""

import json
import math
import os
import queue
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from data_prep.addresses import without_secrets
from data_prep.durable import write_durably
from train.liveness.exit_status import FINISHED
from train.recipe.config import Config
from train.recipe.identity import result_fields
from train.report.sinks import Sink

LEAVE_SECONDS = 20.0
"""How long the end of a run waits for what a server has not taken yet."""
WAITING_REPORTS = 1000
"""Kept for a server that is slow; further ones are lost."""
ID_FORM = re.compile(r"[A-Za-z0-9_-]{1,64}")


def track(folder: Path, config: Config, say: Callable[[str], None]) -> list[Sink]:
    """The sinks that the recipe asks for."""
    log, sinks = config.log, []
    if project := log.wandb:
        sinks.append(Aside("W&B", lambda: Wandb(project, folder, config), say))
    if uri := log.mlflow:
        sinks.append(Aside("MLflow", lambda: Mlflow(uri, folder, config), say))
    return sinks


class Aside:
    """A sink in a thread of its own: nobody waits for it, and its faults are said once."""

    def __init__(self, name: str, make: Callable[[], Sink], say: Callable[[str], None]) -> None:
        self._name, self._make, self._say = name, make, say
        self._waiting: queue.Queue[tuple[int, str, dict[str, float]] | None] = queue.Queue(WAITING_REPORTS)
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def write(self, step: int, kind: str, figures: dict[str, float]) -> None:
        with suppress(queue.Full):
            self._waiting.put_nowait((step, kind, dict(figures)))

    def close(self) -> None:
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(LEAVE_SECONDS)
        if self._thread.is_alive():
            self._say(f"{self._name} does not take the last figures; they are in metrics.jsonl")

    def _work(self) -> None:
        sink: Sink | None = None
        said = False
        while report := self._waiting.get():
            try:
                sink = sink or self._make()
                sink.write(*report)
            except ImportError as error:
                return self._say(f"no {self._name}: {error}; training goes on without it")
            except Exception as error:  # whatever such a library raises: no metric ends a training
                if not said:
                    self._say(f"no {self._name}: {_short(error)}; training goes on, the next report is tried again")
                said = True
        with suppress(Exception):
            if sink:
                sink.close()


class Wandb:
    """A run of W&B."""

    def __init__(self, project: str, folder: Path, config: Config) -> None:
        import wandb

        settings = wandb.Settings(  # figures alone: no code, no command line, no output, nothing about this host
            **dict.fromkeys(("disable_git", "disable_job_creation", "x_disable_meta", "x_disable_stats"), True),
            **{"console": "off", "save_code": False, "silent": True, "init_timeout": 60},
        )
        self._folder = folder
        if os.environ.get("WANDB_MODE", "online") == "online" and not wandb.login(prompt=False):
            raise OSError("there is no key here; run `wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline")
        own = kept_id(folder / "wandb.id", lambda: secrets.token_hex(8))
        self._run: Any = wandb.init(
            **{"project": project, "id": own, "name": folder.resolve().name, "resume": "allow"},
            **{"dir": str(folder), "config": told(config), "settings": settings},
        )
        self._run.define_metric("*", step_metric="step")  # a resumed run takes some steps again

    def write(self, step: int, kind: str, figures: dict[str, float]) -> None:
        self._run.log({f"{kind}/{name}": value for name, value in figures.items()} | {"step": step})

    def close(self) -> None:
        self._run.finish(exit_code=0 if (self._folder / FINISHED).exists() else 1)


class Mlflow:
    """A run in the experiment `slam-asr` of an MLflow tracking server."""

    def __init__(self, uri: str, folder: Path, config: Config) -> None:
        for name, value in (("REQUEST_MAX_RETRIES", "2"), ("REQUEST_TIMEOUT", "20")):  # its own patience is minutes
            os.environ.setdefault(f"MLFLOW_HTTP_{name}", value)
        entities = import_module("mlflow.entities")  # by name, as `make check` has to do without the package
        self._metric, self._param, self._folder = entities.Metric, entities.Param, folder
        self._client = import_module("mlflow.tracking").MlflowClient(uri)
        self._id = kept_id(folder / "mlflow.id", lambda: self._new(folder.resolve().name, config))
        self._client.update_run(self._id, status="RUNNING")

    def _new(self, name: str, config: Config) -> str:
        experiment = self._client.get_experiment_by_name("slam-asr")
        number = experiment.experiment_id if experiment else self._client.create_experiment("slam-asr")
        own: str = self._client.create_run(number, run_name=name).info.run_id
        self._client.log_batch(own, params=[self._param(key, value) for key, value in told(config).items()])
        return own

    def write(self, step: int, kind: str, figures: dict[str, float]) -> None:
        now = int(time.time() * 1000)
        finite = {name: value for name, value in figures.items() if math.isfinite(value)}
        rows = [self._metric(f"{kind}/{name}", value, now, step) for name, value in finite.items()]
        self._client.log_batch(self._id, metrics=rows)

    def close(self) -> None:
        self._client.set_terminated(self._id, "FINISHED" if (self._folder / FINISHED).exists() else "KILLED")


def _short(error: Exception) -> str:
    return " ".join(without_secrets(str(error)).split())[:300]


def kept_id(path: Path, make: Callable[[], str]) -> str:
    """The id that the run has there; a new one, kept from now on, where it has none."""
    with suppress(OSError):
        own = path.read_text().strip()
        if ID_FORM.fullmatch(own):
            return own
    own = make()
    write_durably(path, f"{own}\n".encode())
    return own


def told(config: Config) -> dict[str, str]:
    """What of the recipe leaves this host: what results follow from, without paths, and of addresses no secrets."""
    fields = {key: value for key, value in result_fields(config).items() if not key.endswith("_dir")}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in fields.items()}
    return {key: without_secrets(text) for key, text in texts.items()}
