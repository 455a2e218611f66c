"""W&B without its server and MLflow in a folder, both real: a run and its continuation are one run there.

MLflow is in no environment of ours: deepspeed imports it wherever it is, 0.8 s a process. To run its test:
`pip install --target /tmp/mlflow mlflow-skinny; PYTHONPATH=/tmp/mlflow pytest tests/train/report/test_trackers.py`.
"""

import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import ranks
from train.recipe.config import load_config
from train.report import trackers
from train.report.trackers import BackgroundSink, public_recipe, stored_id

SECRET = "hunter2"


@dataclass(frozen=True)
class Surroundings:
    """Environment variables of a rank."""

    variables: dict[str, str]

    def __call__(self, rank: int) -> None:
        os.environ |= self.variables
        trackers.LEAVE_SECONDS = float(self.variables.get("LEAVE_SECONDS", trackers.LEAVE_SECONDS))


def train(ground: Path, folder: Path, *more: str, **variables: str) -> str:
    """A rank of 4 steps, or of what `more` says."""
    arguments = [str(ground / "recipe.yaml"), f"run.dir={folder}", "optim.max_steps=4", *more]
    before = Surroundings({"WANDB_API_KEY": SECRET * 6, "MLFLOW_TRACKING_PASSWORD": SECRET, **variables})
    return ranks.train(arguments, 1, folder.with_suffix(".log"), before=before)


def test_mlflow_has_one_run_of_a_training_that_was_continued(ground, tmp_path):
    tracking = pytest.importorskip("mlflow.tracking", reason="the extra mlflow is not here, and not part of dev")
    store, folder = (tmp_path / "store").as_uri(), tmp_path / "run"
    own = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_ENABLE_TELEMETRY": "false"}
    texts = [train(ground, folder, f"log.mlflow={store}", f"optim.max_steps={steps}", **own) for steps in (4, 6)]
    assert "MLflow" not in "".join(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        client = tracking.MlflowClient(store)
        (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
        losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert run.info.run_id == (folder / "mlflow.id").read_text().strip() and run.info.status == "FINISHED"
    assert [row.step for row in losses] == [1, 2, 3, 4, 5, 6]
    assert [row.value for row in losses] == pytest.approx(ranks.losses(folder), rel=1e-6)
    assert run.data.params["optim.lr"] == "0.0002" and not [key for key in run.data.params if key.startswith("data.tr")]


def test_wandb_has_one_run_of_a_training_that_was_continued(ground, tmp_path):
    pytest.importorskip("wandb")
    folder = tmp_path / "run"
    for steps in (4, 6):
        text = train(ground, folder, "log.wandb=speech", f"optim.max_steps={steps}", WANDB_MODE="offline")
        assert "W&B" not in text
    own = (folder / "wandb.id").read_text().strip()
    written = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    assert [file.name for file in written] == [f"run-{own}.wandb"] * 2
    data = [file.read_bytes() for file in written]
    assert all(b"train/loss" in one and b"optim.lr" in one for one in data)
    everything = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    assert SECRET.encode() not in everything and not [one for one in data if str(ground).encode() in one]


def test_servers_that_cannot_be_reached_and_packages_that_are_missing_do_not_end_a_training(ground, tmp_path):
    nobody = f"http://127.0.0.1:{ranks.free_port()}"
    more = ("log.wandb=speech", f"log.mlflow={nobody}")
    hasty = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}
    text = train(ground, tmp_path / "run", *more, **hasty, WANDB_BASE_URL=nobody, LEAVE_SECONDS="3")
    assert text.count("no MLflow: ") == 1 and text.count("no W&B: ") <= 1
    assert SECRET not in text
    text = ranks.train(
        [str(ground / "recipe.yaml"), f"run.dir={tmp_path / 'bare'}", "optim.max_steps=2", *more],
        *(1, tmp_path / "bare.log"),
        before=without_packages,
    )
    assert re.search("no W&B: .*wandb.*; training goes on without it", text)
    assert re.search("no MLflow: .*mlflow.*; training goes on without it", text)


def without_packages(rank: int) -> None:
    """A rank in an environment without the extras."""
    import sys

    sys.modules |= {"wandb": None, "mlflow": None, "mlflow.entities": None}  # type: ignore[dict-item]


def test_what_leaves_the_host_holds_no_paths_and_no_passwords(ground):
    overrides = [f"data.train=s3://me:{SECRET}@bucket/a?key={SECRET}", "augment.noise_dir=/home/me/noise"]
    overrides += ["augment.noise_share=0.5", f"model.prompt=<speech> http://me:{SECRET}@host/?token={SECRET}"]
    fields = public_recipe(load_config(ground / "recipe.yaml", overrides))
    assert SECRET not in str(fields) and "/home" not in str(fields) and str(ground) not in str(fields)
    assert fields["augment.noise_share"] == "0.5"


def test_an_id_is_kept_and_one_that_is_none_is_replaced(tmp_path):
    path = tmp_path / "id"
    assert [stored_id(path, lambda: "one"), stored_id(path, lambda: "two")] == ["one", "one"]
    path.write_text("../../x\n\n")
    assert stored_id(path, lambda: "three") == "three" and path.read_text() == "three\n"


def test_a_server_that_comes_back_gets_what_follows_and_a_slow_one_delays_nothing():
    lines, rows, fails, answers = [], [], [True, True, False], threading.Event()

    class Flaky:
        def write(self, step, kind, figures):
            answers.wait()
            if fails and fails.pop(0):
                raise RuntimeError("503 at http://me:secret@host/?key=x\nmore")
            rows.append(step)

        def close(self):
            rows.append("closed")

    sink = BackgroundSink("Flaky", Flaky, lines.append)
    for step in range(1, 5):
        sink.write(step, "train", {"loss": 1.0})  # returns though the server has not answered
    answers.set()
    sink.close()
    assert rows == [3, 4, "closed"]
    assert len(lines) == 1 and lines[0].startswith("no Flaky: 503 at") and "secret" not in lines[0]
