"""`slam-asr recipe`: what `new` writes loads and suits hours and LLM; the schema fits every shipped recipe."""

import json
import math
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.command import main
from launch.recipes.text import Wanted, choose, recipe_text, window_of
from model.prompt import DEFAULT_TEMPLATE
from tests.data_prep.spoken import clean, written
from train.recipe.config import load_config

STAND_IN = Path(__file__).resolve().parents[2] / "model" / "stand_in"
RECIPES = sorted((STAND_IN.parents[1] / "recipes").rglob("*.yaml"))
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
    assert config.data.train == ("train a", "train b") and "best" not in recipe_text(wanted)
    slots = config.batch.micro_batches
    assert slots == "auto" if gpus == 0 else isinstance(slots, int) and slots % gpus == 0 and slots >= 6


def test_little_data_is_seen_more_often_and_a_wide_llm_learns_slowly():
    hours = (1, 10, 100, 1000)
    assert [choose(h, 2048).epochs for h in hours] == [30, 15, 6, 3]
    assert [choose(10, width).lr for width in (192, 896, 1536, 2048, 4096)] == [2e-3, 1e-3, 3e-4, 1e-4, 1e-4]
    assert [choose(h, 4096).masks > 0 for h in hours] == [True, True, False, False]
    assert [choose(0.01, 192, tokens).epochs for tokens in (100, 5_000, 25_000)] == [200, 60, 15]
    assert all(choose(h, 192).epochs <= choose(h, 2048).epochs for h in hours)


def test_a_small_llm_and_few_hours_get_lora_and_fewer_epochs():
    assert [choose(h, 576).lora for h in (1, 3, 10, 100)] == [8, 8, 8, 0]
    assert not any(choose(3, width).lora for width in (192, 1536, 4096)), "a toy needs none; wider ones were not tried"
    assert [choose(h, 576).epochs for h in (1, 3, 10, 100)] == [30, 20, 10, 6]


@pytest.mark.parametrize(("family", "rank"), [("mamba", 0), ("gpt2", 8)])
def test_an_llm_in_which_lora_finds_no_layers_by_default_gets_none(tmp_path, monkeypatch, family, rank):
    from transformers import AutoConfig

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    AutoConfig.for_model(family, hidden_size=768, num_hidden_layers=2, vocab_size=64).save_pretrained(tmp_path / "llm")
    asked = ["--train", "nowhere", "--hours", "3", *MODELS[:2], "--llm", str(tmp_path / "llm")]
    assert main(["recipe", "new", *asked, "--out", str(tmp_path / "mine.yaml")]) == 0
    assert load_config(tmp_path / "mine.yaml").lora.rank == rank


@pytest.mark.parametrize(
    ("seconds", "peft", "expected"),
    [(4.0, True, (8, "cut", "Speech: <speech>\nTranscript:")), (8.0, False, (0, "cut", None)), (15.0, True, (8,))],
)
def test_short_utterances_get_a_short_prompt_and_no_padding(tmp_path, seconds, peft, expected):
    window = window_of("whisper", seconds)
    wanted = Wanted(("a",), ("b",), "e", "l", 576, 3.0, "run", mean_seconds=seconds, window=window, peft=peft)
    (tmp_path / "recipe.yaml").write_text(text := recipe_text(wanted))
    config = load_config(tmp_path / "recipe.yaml")
    rank, cut, prompt = (*expected, None, None)[:3]
    assert (config.lora.rank, config.model.encoder_window) == (rank, cut)
    assert config.model.prompt == (prompt or DEFAULT_TEMPLATE) and ("pip install 'slam-asr[lora]'" in text) != peft
    assert window_of("hubert", 4.0) is None


@pytest.mark.parametrize(
    ("more", "values"),
    [
        (["--train", "nowhere"], ["nowhere", "--hours"]),
        (["--train", "nowhere", "--hours", "0"], ["--hours is 0"]),
        (["--train", "nowhere", "--hours", "5", "--llm", "."], ["LLM", "'.'"]),
        (["--train", "nowhere", "--hours", "5", "--gpus", "-2"], ["--gpus is -2"]),
        (["--train", "SHARDS", "--hours", "5"], ["leave --hours out"]),
        (["--train", "SHARDS", "--dev", "nowhere"], ["nowhere"]),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(shards, tmp_path, monkeypatch, capsys, more, values):
    monkeypatch.chdir(tmp_path)
    more = [str(shards) if word == "SHARDS" else word for word in more]
    assert main(["recipe", "new", *MODELS, *more, "--out", "mine.yaml"]) == 2
    out, err = capsys.readouterr()
    assert all(value in err for value in values) and err.count("\n") == 1 and not out
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def schema(tmp_path_factory) -> dict[str, Any]:
    """What `slam-asr recipe schema` prints."""
    path = tmp_path_factory.mktemp("schema") / "recipe.schema.json"
    with redirect_stdout(StringIO()) as printed:
        assert main(["recipe", "schema"]) == main(["recipe", "schema", "--out", str(path)]) == 0
    assert printed.getvalue() == path.read_text()
    return json.loads(printed.getvalue())


class Yaml12(yaml.SafeLoader):
    """Reads 1e-4 as a number, as editors do."""


Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("+-0123456789")
)


def problems(value: Any, schema: dict[str, Any], root: dict[str, Any], key: str = "") -> list[str]:
    """Where a value does not fit a schema, for the keywords that ours uses."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return [] if any(not problems(value, member, root) for member in schema["anyOf"]) else [f"{key}: {value}"]
    types = {"object": dict, "array": list, "string": str, "integer": int, "number": int | float, "boolean": bool}
    kind = schema.get("type", "any")
    if kind == "null" or "const" in schema or "enum" in schema:
        fits = value in schema.get("enum", [schema.get("const")])
    else:
        fits = isinstance(value, types[kind]) and (kind == "boolean") == isinstance(value, bool)
    fits = fits and re.search(schema.get("pattern", ""), str(value)) is not None
    fits = fits and schema.get("minimum", -math.inf) <= (value if kind in ("integer", "number") else 0)
    if not fits:
        return [f"{key}: {value}"]
    if isinstance(value, list):
        items = schema.get("prefixItems") or [schema["items"]] * len(value)
        return [p for item, part in zip(value, items, strict=True) for p in problems(item, part, root, key)]
    if not isinstance(value, dict):
        return []
    found = [f"{key}.{name} is missing" for name in schema.get("required", []) if name not in value]
    found += [f"{key}.{name} is unknown" for name in value if name not in schema["properties"]]
    known = {name: part for name, part in schema["properties"].items() if name in value}
    return found + [p for name, part in known.items() for p in problems(value[name], part, root, f"{key}.{name}")]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_shipped_recipe_fits_the_schema(path, schema):
    assert problems(yaml.load(path.read_text(), Yaml12), schema, schema) == []  # noqa: S506


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"optim": {"lr": "fast", "max_steps": 0}}, [".optim.lr: fast", ".optim.max_steps: 0"]),
        ({"optim": {"lrr": 1}}, [".optim.lrr is unknown"]),
        ({"model": {"llm": "x", "dtype": "bf16"}}, [".model.encoder is missing", ".model.dtype: bf16"]),
        ({"model": {"encoder": "x", "llm": "x", "prompt": "hello"}}, [".model.prompt: hello"]),
        ({"log": {"prometheus": "here or there"}}, [".log.prometheus: here or there"]),
        ({"data": {"train": "x", "max_seconds": 20}, "batch": {"tokens": "auto"}, "optim": {"betas": [0.9, 0.99]}}, []),
    ],
)
def test_the_schema_refuses_what_the_recipe_refuses(section, problem, schema):
    recipe = {
        "model": {"encoder": "e", "llm": "l"},
        "data": {"train": "x"},
        "optim": {"max_steps": 9},
        "run": {"dir": "r"},
    }
    assert problems(recipe | section, schema, schema) == problem


def test_the_schema_explains_every_key(schema):
    sections = [schema, *schema["$defs"].values()]
    keys = [(name, key) for section in sections for name, key in section["properties"].items()]
    assert len(keys) > 80 and not [name for name, key in keys if "description" not in key and "$ref" not in key]
    assert all(section["description"] for section in sections)
