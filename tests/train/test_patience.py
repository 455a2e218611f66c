"""eval.patience ends a run as finished, with its best checkpoint, exactly where an uninterrupted run ends."""

import json

import pytest

from tests import ranks
from tests.train.runs import refuse, run
from train.report.evaluate import counts

NOTHING_LEARNT = ["optim.lr=1e-12", "optim.warmup_steps=0"]
EACH_STEP = ["eval.every_steps=1", "save.every_steps=3", "eval.wer=false"]


@pytest.fixture
def dev(ground) -> list[str]:
    return [f"data.dev={ground / 'dev'}", "data.max_dev_samples=4", "save.best=accuracy", *NOTHING_LEARNT, *EACH_STEP]


def state(folder, step: int) -> dict:
    return json.loads((folder / "checkpoints" / f"step-{step:08d}" / "state.json").read_text())


@pytest.mark.parametrize("world", [1, 2])
def test_a_run_without_a_better_figure_ends_as_finished_and_says_why(ground, dev, tmp_path, world):
    folder = tmp_path / "run"
    text = run(ground, folder, *dev, "eval.patience=4", world=world)
    assert "finished at step 5, after " in text and "no better accuracy in 4 evaluations (eval.patience)" in text
    assert "of step 1; score, transcribe and export take that step from the run" in text
    assert (folder / "FINISHED").read_text() == "5 no better accuracy in 4 evaluations (eval.patience)\n"
    assert (folder / "checkpoints" / "best").readlink().name == "step-00000001" and state(folder, 5)["misses"] == 4
    again = run(ground, folder, *dev, "eval.patience=4", world=3 - world)  # the same command trains no further
    assert "finished at step 5" in again and ranks.losses(folder, figure="step") == [1, 2, 3, 4, 5]
    further = run(ground, folder, *dev, "eval.patience=6")
    assert "finished at step 7" in further


def test_a_killed_run_counts_on_from_its_checkpoint(ground, dev, tmp_path):
    folder = tmp_path / "run"
    run(ground, folder, *dev, "eval.patience=5", "optim.max_steps=8")
    straight = ranks.losses(folder, "dev", "loss")
    for step in (6, 5, 4):  # as after kill -9: nothing later than step 3 is saved
        path = folder / "checkpoints" / f"step-{step:08d}"
        for file in path.glob("*"):
            file.unlink()
        path.rmdir() if path.exists() else None
    (folder / "FINISHED").unlink()
    assert state(folder, 3)["misses"] == 2
    text = run(ground, folder, *dev, "eval.patience=5", "optim.max_steps=8")
    assert "resuming from" in text and "is lost and done again" in text and "finished at step 6, " in text
    assert ranks.losses(folder, "dev", "loss") == straight


def test_neither_the_warm_up_nor_a_wer_of_100_percent_counts(ground, dev, tmp_path):
    run(ground, tmp_path / "run", *dev, "eval.patience=2", "optim.warmup_steps=4")
    assert (tmp_path / "run" / "FINISHED").read_text().startswith("6 ")
    assert not counts("wer", None) and not counts("wer", 1.0) and counts("wer", 0.99) and counts("loss", 3.0)


def test_patience_without_a_figure_to_wait_for_is_refused(ground, dev, tmp_path):
    assert "eval.patience is 2, but data.dev is empty" in refuse(ground, tmp_path / "a", "eval.patience=2")
    line = refuse(ground, tmp_path / "b", *dev, "eval.patience=2", "save.best=none")
    assert "eval.patience is 2, but save.best is none; give it, or leave eval.patience out" in line


def test_a_run_of_an_earlier_version_resumes_with_the_default_and_says_from_where_it_holds(ground, dev, tmp_path):
    by_default = [value for value in dev if not value.startswith("save.best")]
    run(ground, tmp_path / "run", *by_default, "save.best=none", "optim.max_steps=3")
    assert not (tmp_path / "run" / "checkpoints" / "best").is_symlink()
    text = run(ground, tmp_path / "run", *by_default, "optim.max_steps=4")
    assert "save.best was none, is loss: evaluations up to step 3 do not count" in text
    assert (tmp_path / "run" / "checkpoints" / "best").readlink().name == "step-00000004"
