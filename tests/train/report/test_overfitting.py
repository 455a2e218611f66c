"""The watch for overfitting, over a real curve and over made ones of runs that go right and wrong."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from train.recipe.config import Config, load_config
from train.report.overfitting import Overfitting, remedies

REAL = {  # of a Whisper tiny.en and a SmolLM2-135M on 2.9 h: accuracy in training, and on dev where it was evaluated
    **{100: (0.25,), 200: (0.29,), 250: (0.29, 0.28), 400: (0.36,), 500: (0.41, 0.39), 600: (0.44,)},
    **{750: (0.56, 0.51), 800: (0.68,), 900: (0.68,), 1000: (0.78, 0.54)},
}
WITH_LORA = [  # the same models with LoRA, dropout and SpecAugment, which did not overfit by then: step, training, dev
    *((172, 0.26, 4.25, 0.274, 4.02), (344, 0.31, 3.75, 0.298, 3.80), (516, 0.352, 3.45, 0.354, 3.49)),
    *((688, 0.438, 2.95, 0.470, 2.89), (860, 0.549, 2.30, 0.561, 2.35)),
]


def records(points: Iterable[tuple[float, ...]]) -> list[dict]:
    """(step, accuracy and loss in training, accuracy and loss on dev) as metrics.jsonl has them."""
    rows = []
    for step, accuracy, loss, dev_accuracy, dev_loss in points:
        rows.append({"step": step, "kind": "train", "accuracy": accuracy, "loss": loss})
        rows.append({"step": step, "kind": "dev", "accuracy": dev_accuracy, "loss": dev_loss, "wer": 0.5})
    return rows


def watched(rows: Iterable[dict], watch: Overfitting | None = None) -> list[str]:
    """All lines over these records."""
    watch, lines = watch or Overfitting("do this"), []
    for row in rows:
        if row["kind"] == "train":
            watch.training(row["accuracy"], row["loss"])
        else:
            lines += watch.evaluation(row["step"], row)
    return lines


def test_a_real_run_that_learns_its_data_by_heart_is_told_so_once():
    watch, lines = Overfitting("do this"), []
    for step, (accuracy, *dev) in REAL.items():
        watch.training(accuracy, 3.0)
        lines += watch.evaluation(step, {"accuracy": dev[0], "loss": 3.0}) if dev else []
    (line,) = lines
    assert line.startswith("step 1000: overfitting: token accuracy is 71.3% in training and 54.0% on dev, 17 points")
    assert line.endswith("; do this")


def test_a_real_run_whose_dev_set_keeps_up_gets_no_line():
    assert watched(records(WITH_LORA)) == []


def falling(evaluations: int, dev_loss: float, seed: int) -> list[dict]:
    """A run whose training loss falls from 3 to 0.5 and whose dev loss falls to 1.2 and ends at `dev_loss`, on a dev
    set of 60 utterances (600 tokens)."""
    rng, points = np.random.default_rng(seed), []
    for i in range(evaluations):
        done = i / (evaluations - 1)
        dev = 3 - 1.8 * min(1, 2 * done) + (dev_loss - 1.2) * max(0, 2 * done - 1)
        accuracy = 0.8 - 0.6 * (1 - min(1, 2 * done))
        noise = rng.normal(0, 0.01, 2)
        points.append((100 * (i + 1), 0.2 + 0.65 * done, 3 - 2.5 * done, accuracy + noise[0], dev * (1 + noise[1])))
    return records(points)


@pytest.mark.parametrize("seed", range(5))
def test_a_dev_loss_that_rises_while_that_of_training_falls_is_told_and_repeated_sparsely(seed):
    lines = watched(falling(20, dev_loss=1.8, seed=seed))
    assert 1 <= len(lines) <= 2 and "the loss on dev is higher, now 1." in lines[0]
    assert 1200 <= int(lines[0].split(":")[0].removeprefix("step ")) <= 1700
    assert watched(falling(20, dev_loss=1.2, seed=seed)) == [], "one that only stops falling"


def test_a_dev_loss_that_rises_with_its_accuracy_is_no_fault():
    points = [(100 * i, 0.6 + 0.03 * i, 1 - 0.1 * i, 0.5 + 0.03 * i, 1 + 0.1 * i) for i in range(1, 8)]
    assert watched(records(points)) == []


def test_a_dev_set_that_is_harder_from_the_start_is_no_fault():
    points = [(100 * i, 0.5 + 0.03 * i, 2 - 0.2 * i, 0.3 + 0.03 * i, 2.5 - 0.1 * i) for i in range(9)]
    assert watched(records(points)) == []


def test_a_resumed_run_does_not_repeat_its_line():
    rows = falling(20, dev_loss=1.8, seed=0)
    whole = watched(rows)
    for cut in (5, 28, 35):
        watch = Overfitting.from_metrics(rows[:cut], "do this")
        assert watched(rows[:cut]) + watched(rows[cut:], watch) == whole
    torn = [{"kind": "dev"}, {"kind": "dev", "step": 5, "loss": None}, {"kind": "train", "loss": None}, {}]
    assert watched(rows, Overfitting.from_metrics(torn, "do this")) == whole


def recipe(*overrides: str) -> Config:
    return load_config(Path(__file__).parents[3] / "recipes" / "demo.yaml", overrides)


def test_the_advice_names_what_the_recipe_has_not_set():
    bare = remedies(recipe("save.best=none", "lora.rank=0"))
    assert "augment.time_masks=2" in bare and "lora" not in bare and "save.best=wer keeps" in bare
    full = ["model.adapter.dropout=0.1", "augment.time_masks=2", "augment.feature_masks=2", "lora.rank=8"]
    text = remedies(recipe(*full, "save.best=loss"))
    assert "masks" not in text and "dropout" not in text and "lora.rank=4" in text and "best loss" in text
