"""W&B and MLflow as sinks: figures under `train/` and `dev/`, and the recipe without paths.

Each is imported only if asked for, and runs in a thread of its own (BackgroundSink), as it talks to a server. A resumed
run is the same run there: its id is kept in the run folder."""

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
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from data_prep.addresses import without_secrets
from data_prep.durable import write_durably
from train.liveness.exit_status import FINISHED
from train.recipe.config import Config
from train.recipe.identity import result_fields
from train.report.sinks import Sink

LEAVE_SECONDS = 20.0  # for which the end of a run waits for a server to take the last reports
WAITING_REPORTS = 1000  # held for a slow server; further ones are dropped


def open_trackers(folder: Path, config: Config, say: Callable[[str], None]) -> list[Sink]:
    """The trackers that the recipe asks for."""
    kinds = (("W&B", Wandb, config.log.wandb), ("MLflow", Mlflow, config.log.mlflow))
    return [BackgroundSink(name, partial(kind, place, folder, config), say) for name, kind, place in kinds if place]


class BackgroundSink:
    """A sink in a thread of its own: training never waits for it, and its first error is printed."""

    def __init__(self, name: str, create: Callable[[], Sink], say: Callable[[str], None]) -> None:
        self._name, self._create, self._say = name, create, say
        self._reports: queue.Queue[tuple[int, str, dict[str, float]] | None] = queue.Queue(WAITING_REPORTS)
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def write(self, step: int, kind: str, figures: dict[str, float]) -> None:
        with suppress(queue.Full):
            self._reports.put_nowait((step, kind, dict(figures)))

    def close(self) -> None:
        with suppress(queue.Full):
            self._reports.put_nowait(None)
        self._thread.join(LEAVE_SECONDS)
        if self._thread.is_alive():
            self._say(f"{self._name} does not take the last figures; they are in metrics.jsonl")

    def _work(self) -> None:
        sink, failed = None, False
        while report := self._reports.get():
            try:
                sink = sink or self._create()
                sink.write(*report)
            except ImportError as error:
                return self._say(f"no {self._name}: {error}; training goes on without it")
            except Exception as error:  # of any kind: no metric ends a training
                if not failed:
                    reason = " ".join(without_secrets(str(error)).split())[:300]
                    self._say(f"no {self._name}: {reason}; training goes on, the next report is tried again")
                failed = True
        with suppress(Exception):
            if sink:
                sink.close()


class Wandb:
    """A run in a W&B project."""

    def __init__(self, project: str, folder: Path, config: Config) -> None:
        import wandb

        self._folder = folder
        settings = wandb.Settings(  # figures alone: no code, no command line, no output, nothing about this host
            **dict.fromkeys(("disable_git", "disable_job_creation", "x_disable_meta", "x_disable_stats"), True),
            **{"console": "off", "save_code": False, "silent": True, "init_timeout": 60},
        )
        if os.environ.get("WANDB_MODE", "online") == "online" and not wandb.login(prompt=False):
            raise OSError("there is no key here; run `wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline")
        run_id = stored_id(folder / "wandb.id", lambda: secrets.token_hex(8))
        self._run: Any = wandb.init(
            **{"project": project, "id": run_id, "name": folder.resolve().name, "resume": "allow"},
            **{"dir": str(folder), "config": public_recipe(config), "settings": settings},
        )
        self._run.define_metric("*", step_metric="step")  # a resumed run takes some steps again

    def write(self, step: int, kind: str, figures: dict[str, float]) -> None:
        self._run.log({f"{kind}/{name}": value for name, value in figures.items()} | {"step": step})

    def close(self) -> None:
        self._run.finish(exit_code=0 if (self._folder / FINISHED).exists() else 1)


class Mlflow:
    """A run in the experiment `slam-asr` of an MLflow tracking server."""

    def __init__(self, uri: str, folder: Path, config: Config) -> None:
        for name, value in (("REQUEST_MAX_RETRIES", "2"), ("REQUEST_TIMEOUT", "20")):  # by default it tries for minutes
            os.environ.setdefault(f"MLFLOW_HTTP_{name}", value)
        self._entities = import_module("mlflow.entities")  # by name: `make check` runs without the package
        self._client, self._folder = import_module("mlflow.tracking").MlflowClient(uri), folder

        def create() -> str:
            experiment = self._client.get_experiment_by_name("slam-asr")
            number = experiment.experiment_id if experiment else self._client.create_experiment("slam-asr")
            run_id: str = self._client.create_run(number, run_name=folder.resolve().name).info.run_id
            params = [self._entities.Param(key, value) for key, value in public_recipe(config).items()]
            self._client.log_batch(run_id, params=params)
            return run_id

        self._id = stored_id(folder / "mlflow.id", create)
        self._client.update_run(self._id, status="RUNNING")

    def write(self, step: int, kind: str, figures: dict[str, float]) -> None:
        now, finite = int(time.time() * 1000), {n: value for n, value in figures.items() if math.isfinite(value)}
        rows = [self._entities.Metric(f"{kind}/{name}", value, now, step) for name, value in finite.items()]
        self._client.log_batch(self._id, metrics=rows)

    def close(self) -> None:
        self._client.set_terminated(self._id, "FINISHED" if (self._folder / FINISHED).exists() else "KILLED")


def stored_id(path: Path, create: Callable[[], str]) -> str:
    """The tracker's run id from the file; a new one, stored there, if it has none."""
    with suppress(OSError):
        run_id = path.read_text().strip()
        if re.fullmatch("[A-Za-z0-9_-]{1,64}", run_id):
            return run_id
    run_id = create()
    write_durably(path, f"{run_id}\n".encode())
    return run_id


def public_recipe(config: Config) -> dict[str, str]:
    """The part of the recipe that a tracker gets: keys that determine results, no paths, no secrets of addresses."""
    fields = {key: value for key, value in result_fields(config).items() if not key.endswith("_dir")}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in fields.items()}
    return {key: without_secrets(text) for key, text in texts.items()}
