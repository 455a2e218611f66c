"""`slam-asr recipe new`: what it writes loads, suits the hours and the LLM, and gives its reasons."""

from pathlib import Path

import pytest

from launch.command import main
from launch.recipes.choices import choose
from launch.recipes.text import Wanted, recipe_text
from tests.data_prep.spoken import clean, written
from train.recipe.config import load_config

STAND_IN = Path(__file__).resolve().parents[2] / "model" / "stand_in"
MODELS = ["--encoder", str(STAND_IN / "encoder"), "--llm", str(STAND_IN / "llm")]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return written(tmp_path_factory.mktemp("recipe") / "shards", clean(20))


def test_the_recipe_for_shards_passes_plan_and_doctor(shards, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dev = written(tmp_path / "dev", clean(6, seed=100))
    asked = ["recipe", "new", "--train", str(shards), "--dev", str(dev), *MODELS]
    assert main(asked) == 0
    text = capsys.readouterr().out
    assert main([*asked, "--out", "recipes/mine.yaml", "--run-dir", "runs/a run: mine"]) == 0
    config = load_config("recipes/mine.yaml")
    assert (config.data.train, config.data.dev) == (
        (str(shards),),
        (str(dev),),
    ) and config.run.dir == "runs/a run: mine"
    assert (config.model.adapter.hidden, config.optim.lr) == (512, 2e-3) and (config.optim.epochs or 0) > 100
    assert config.batch.tokens == config.optim.warmup_steps == config.save.every_steps == "auto"
    assert text.replace("runs/llm", '"runs/a run: mine"') == Path("recipes/mine.yaml").read_text()
    assert "LLM of width 192" in text and all(f"#   {hours:>5}" in text for hours in ("1", "10", "100", "1,000"))
    assert main(["plan", "recipes/mine.yaml", "--gpus", "1x24GB"]) == 0
    assert main(["doctor", "recipes/mine.yaml"]) == 0
    assert main([*asked, "--out", "recipes/mine.yaml"]) == 2
    assert "recipes/mine.yaml is there already" in capsys.readouterr().err


@pytest.mark.parametrize("gpus", [0, 1, 3, 8, 16, 24])
def test_each_rank_gets_as_many_micro_batches(tmp_path, gpus):
    wanted = Wanted(("train a", "train b"), (), "e", "l", 2048, 100.0, "run", gpus=gpus)
    (tmp_path / "recipe.yaml").write_text(recipe_text(wanted))
    config = load_config(tmp_path / "recipe.yaml")
    assert config.data.train == ("train a", "train b") and config.save.best == "none"
    slots = config.batch.micro_batches
    assert slots == "auto" if gpus == 0 else isinstance(slots, int) and slots % gpus == 0 and slots >= 6


def test_little_data_is_seen_more_often_and_a_wide_llm_learns_slowly():
    hours = (1, 10, 100, 1000)
    assert [choose(h, 2048).epochs for h in hours] == [30, 15, 6, 3]
    assert [choose(10, width).lr for width in (192, 896, 1536, 2048, 4096)] == [2e-3, 1e-3, 3e-4, 1e-4, 1e-4]
    assert [choose(h, 4096).time_masks > 0 for h in hours] == [True, True, False, False]
    assert [choose(0.01, 192, tokens).epochs for tokens in (100, 5_000, 25_000)] == [200, 60, 15]
    assert all(choose(h, 192).epochs <= choose(h, 2048).epochs for h in hours)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--train", "nowhere"], ["nowhere", "--hours"]),
        (["--train", "nowhere", "--hours", "0"], ["--hours is 0"]),
        (["--train", "nowhere", "--hours", "5", "--llm", "."], ["LLM", "'.'"]),
        (["--train", "nowhere", "--hours", "5", "--gpus", "-2"], ["--gpus is -2"]),
        (["--train", "SHARDS", "--hours", "5"], ["leave --hours out"]),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(shards, tmp_path, monkeypatch, capsys, more, told):
    monkeypatch.chdir(tmp_path)
    more = [str(shards) if word == "SHARDS" else word for word in more]
    assert main(["recipe", "new", *MODELS, *more, "--out", "mine.yaml"]) == 2
    out, err = capsys.readouterr()
    assert all(value in err for value in told) and err.count("\n") == 1 and not out
    assert not list(tmp_path.iterdir())
