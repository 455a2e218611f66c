"""The `auto` values of a recipe follow from the data and the device, the same on any number of ranks."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data_prep.cores import usable_cores
from tests import ranks
from train.data.plan import Epochs, cost_of
from train.dist.launch_env import READERS, set_threads, threads_of
from train.parts import prompt_remarks, rank_remarks, schedule_remarks
from train.recipe import auto
from train.recipe.config import Config, load_config
from train.recipe.kinds import decided

NO_BATCH = ["batch.tokens=auto", "batch.micro_batches=auto"]
NO_STEPS = ["optim.warmup_steps=auto", "save.every_steps=auto", "eval.every_steps=auto", "save.total_limit=2"]


def config(*overrides: str) -> Config:
    path = Path(__file__).parents[2] / "recipes" / "demo.yaml"
    return load_config(path, ["optim.max_steps=null", "optim.epochs=5", *NO_BATCH, *NO_STEPS, *overrides])


def lengths(hours: float) -> np.ndarray:
    """LLM tokens of utterances of 2 to 30 s, as of English read aloud with the paper's prompt: int64 [N]."""
    seconds = np.random.default_rng(0).gamma(6.0, 2.0, round(hours * 300)).clip(2, 30)
    return (25 + 15 * seconds).astype(np.int64)


def decide(hours: float, most_tokens: int, *overrides: str) -> tuple[Config, int]:
    """The recipe decided for so many hours, and the steps of its 5 epochs."""
    tokens = lengths(hours)
    costs = cost_of(tokens)
    recipe = auto.decide_batch(config(*overrides), int(costs.sum()), int(costs.max()), most_tokens)
    batch = recipe.batch
    epochs = Epochs(np.arange(len(tokens)), lambda _: tokens, 0, decided(batch.tokens), decided(batch.micro_batches))
    total = epochs.steps_of(5)
    return auto.decide_steps(recipe, total, int(costs.sum()) // 20), total


@pytest.mark.parametrize(
    ("hours", "most_tokens", "step", "steps"),
    [(0.3, 2000, (900, 1300), (80, 150)), (1, 2000, (1000, 1500), (250, 450)), (10, 2000, (2500, 4500), (900, 1300))]
    + [(100, 8000, (25_000, 40_000), (900, 1100)), (1000, 8000, (60_000, 66_000), (4000, 6500))],
)
def test_a_step_suits_the_hours_of_data(hours, most_tokens, step, steps):
    recipe, total = decide(hours, most_tokens)
    tokens, slots = decided(recipe.batch.tokens), decided(recipe.batch.micro_batches)
    assert step[0] <= tokens * slots <= step[1] and steps[0] <= total <= steps[1]
    assert max(cost_of(lengths(hours))) <= tokens <= most_tokens and slots in (2, 4, 8, 16)
    warmup, save = decided(recipe.optim.warmup_steps or 0), decided(recipe.save.every_steps)
    assert 0.1 * total <= warmup <= 0.1 * total + 1 or warmup == 1000 < 0.1 * total
    assert 10 <= save <= 1000 and decided(recipe.eval.every_steps or 0) % save == 0
    assert rank_remarks(recipe, slots, tokens) == []
    assert schedule_remarks(recipe, total // 5, total) == [] or total < 200


def test_what_is_given_stays_and_the_rest_follows_from_it():
    given = decide(10, 2000, "batch.tokens=900", "optim.warmup_steps=7", "save.every_steps=11", "eval.every_steps=13")[
        0
    ]
    assert (given.batch.tokens, given.optim.warmup_steps) == (900, 7)
    assert (given.save.every_steps, given.eval.every_steps) == (11, 13)
    assert given.batch.micro_batches == 4  # 3,300 tokens a step
    assert decide(10, 2000, "batch.micro_batches=3")[0].batch.tokens in range(1000, 1300, 10)
    assert decide(10, 2000, "save.strategy=epoch")[0].eval.every_steps is None


def test_a_device_of_little_memory_accumulates_more():
    tiny_llama = SimpleNamespace(hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, vocab_size=32000)
    tiny_llama.get_text_config = lambda: tiny_llama
    fits = [auto.tokens_that_fit(config(), tiny_llama, 4 * 10**9, gigabytes * 10**9, 2) for gigabytes in (6, 12, 80)]
    assert 300 <= fits[0] < fits[1] < fits[2] == 8000
    assert auto.tokens_that_fit(config(), tiny_llama, 4 * 10**9, None, 4) == 2000
    small, _ = decide(100, fits[0])
    large, _ = decide(100, fits[2])
    products = [decided(c.batch.tokens) * decided(c.batch.micro_batches) for c in (small, large)]
    assert products[0] == pytest.approx(products[1], rel=0.1)
    assert decided(small.batch.micro_batches) > decided(large.batch.micro_batches) == 8


@pytest.mark.parametrize("world", [1, 2])
def test_a_run_writes_and_prints_its_auto_values_and_resumes_with_them(ground, tmp_path, world, monkeypatch):
    arguments = [str(ground / "recipe.yaml"), f"run.dir={tmp_path / 'run'}", *NO_BATCH, *NO_STEPS]
    arguments += [f"data.dev={ground / 'dev'}", "optim.max_steps=2"]
    printed = ranks.train(arguments, world, tmp_path / "log")
    resolved = load_config(tmp_path / "run" / "config.yaml")
    assert (resolved.batch.tokens, resolved.batch.micro_batches, resolved.optim.warmup_steps) == (500, 2, 1)
    assert (resolved.save.every_steps, resolved.eval.every_steps) == (10, 10)
    for figure in ("2 steps in all", "1,000 LLM tokens in 2 micro-batches of 500", "1 steps of warm-up"):
        assert figure in printed
    assert "only" not in printed and "2 steps in all: an adapter rarely learns" in printed
    # More steps decide another warm-up; the run keeps the one that its weights follow from.
    ranks.train([*arguments, "optim.max_steps=11"], world, tmp_path / "log")
    assert load_config(tmp_path / "run" / "config.yaml").optim.warmup_steps == 1


@pytest.mark.parametrize(
    ("overrides", "total", "world", "advice"),
    [
        (["optim.warmup_steps=400"], 1000, 2, ["400 of 1,000 steps", "optim.warmup_steps=100"]),
        (["optim.warmup_steps=2000"], 1000, 2, ["cosine decay never begins", "optim.warmup_steps=100"]),
        (["optim.warmup_steps=9"], 100, 2, ["100 steps in all", "optim.epochs=10"]),
        (["optim.warmup_steps=9"], 1000, 3, ["1 of 3 ranks", "batch.micro_batches=3", "batch.tokens=300"]),
        (["optim.warmup_steps=9"], 1000, 16, ["14 of 16 ranks", "batch.micro_batches=16", "batch.tokens=200"]),
        (["optim.warmup_steps=100"], 1000, 2, []),
        (["optim.warmup_steps=100", "optim.lr=1"], 1000, 2, ["optim.lr=1 is more", "1e-4 to 2e-3"]),
        (["optim.warmup_steps=100", "eval.patience=3"], 1000, 2, ["before the cosine decay", "schedule=constant"]),
        (["optim.warmup_steps=100", "eval.patience=9"], 1000, 2, ["every 100 steps, is longer than the run of 1,000"]),
        (["optim.warmup_steps=100", "eval.patience=3", "optim.schedule=constant"], 1000, 2, []),
    ],
)
def test_a_recipe_that_does_not_suit_its_data_or_ranks_gets_a_remark_with_the_value_to_set(
    overrides, total, world, advice
):
    dev = ["data.dev=dev", "save.every_steps=100", "eval.every_steps=100"]
    recipe = config("batch.tokens=450", "batch.micro_batches=2", *dev, *overrides)
    text = " ".join([*schedule_remarks(recipe, 20, total), *rank_remarks(recipe, world, longest_cost=200)])
    assert all(part in text for part in advice) and bool(advice) == bool(text), text


def test_a_prompt_that_is_much_of_an_utterance_is_told():
    assert prompt_remarks(13, 30) == prompt_remarks(36, 200) == []
    (line,) = prompt_remarks(36, 90)
    assert "36 of the 90 LLM tokens of an average utterance (40%)" in line
    assert '"Speech: <speech>\\nTranscript:"' in line


@pytest.mark.parametrize(
    ("total", "watch", "patience"), [(300, 25, 200), (1719, 43, 430), (8000, 200, 2000), (100_000, 200, 2000)]
)
def test_what_a_small_run_warns_of_is_scaled_by_its_length(total, watch, patience):
    watched = auto.decide_steps(config("batch.tokens=450", "batch.micro_batches=2"), total, 0).watch
    assert (watched.every_steps, watched.patience_steps) == (watch, patience)


@pytest.mark.parametrize(
    ("overrides", "best"),
    [(["data.dev=dev"], "wer"), (["data.dev=dev", "eval.wer=false"], "loss"), (["data.dev=[]"], "none")],
)
def test_the_best_checkpoint_is_that_of_the_lowest_wer_if_there_is_one(overrides, best):
    recipe = config("batch.tokens=450", "batch.micro_batches=2", "save.best=auto", *overrides)
    assert auto.decide_steps(recipe, 1000, 0).save.best == best


def test_threads_are_shared_among_the_ranks_of_a_host_and_leave_cores_to_the_readers(monkeypatch):
    assert [threads_of(*case) for case in ((2, 1), (2, 2), (16, 1), (64, 8), (1, 4))] == [1, 1, 14, 6, 1]
    assert READERS == config().data.reader_threads
    env = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    monkeypatch.setattr("train.dist.launch_env.usable_cores", lambda: 64)
    set_threads(env)
    assert env["OMP_NUM_THREADS"] == "14"
    set_threads(given := {"OMP_NUM_THREADS": "3"})
    assert given == {"OMP_NUM_THREADS": "3"}


@pytest.mark.parametrize(
    ("files", "groups", "cores"),
    [
        ({"job/cpu.max": "150000 100000"}, "0::/job/step", 2),
        ({"job/cpu.max": "max 100000"}, "0::/job", None),
        ({"cpu/job/cpu.cfs_quota_us": "100000", "cpu/job/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/job", 1),
        ({"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/job", None),
        ({}, "not of this form", None),
    ],
)
def test_a_control_groups_quota_bounds_the_cores(files, groups, cores, tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "own").write_text(groups + "\n")
    assert usable_cores(tmp_path, tmp_path / "own") == (cores or 12)


@pytest.mark.parametrize("module", ["dist/launch_env", "liveness/exit_status", "liveness/stop"])
def test_what_is_imported_before_torch_does_not_import_it(module):
    other = r"data_prep\.(?!cores)|train\.(?!dist\.launch_env|liveness\.exit_status)"
    source = (Path(__file__).parents[2] / "train" / f"{module}.py").read_text()
    assert not re.search(rf"^(import|from) (torch|numpy|{other})", source, re.MULTILINE)
