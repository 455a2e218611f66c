"""Paths of a recipe, and values of a wrong type: what is expanded, and what each refusal names."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from model.errors import UserError
from train.recipe.config import Config, load_config
from train.recipe.fields import describe
from train.recipe.identity import to_yaml

RECIPE = """\
model: {encoder: models/hubert, llm: models/llama}
data: {train: data/train}
optim: {lr: 0.0001, max_steps: 100}
run: {dir: runs/one}
"""


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


PATHS = [
    *("run.dir", "data.train", "data.dev", "data.write_features", "data.cache_dir", "augment.noise_dir"),
    *("model.encoder", "model.llm", "log.prometheus_targets"),
]


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~/x", "/home/ann/x"),
        ("$SCRATCH/x", "/scratch/ann/x"),
        ("${SCRATCH}x/$RUN", "/scratch/annx/7"),
        ("s3://bucket/$RUN/~", "s3://bucket/$RUN/~"),
        ("org/model-1$", "org/model-1$"),
        ("a/~/b", "a/~/b"),
    ],
)
def test_home_and_variables_in_paths_are_expanded_and_addresses_and_hub_ids_stay(
    key, written, meant, recipe, monkeypatch
):
    for name, value in (("HOME", "/home/ann"), ("SCRATCH", "/scratch/ann"), ("RUN", "7")):
        monkeypatch.setenv(name, value)
    section, name = key.split(".")
    overridden = load_config(recipe, [f"{key}={written}"])
    tree = yaml.safe_load(recipe.read_text())
    tree.setdefault(section, {})[name] = written
    recipe.write_text(yaml.safe_dump(tree))
    for config in (overridden, load_config(recipe)):
        value = getattr(getattr(config, section), name)
        assert value == ((meant,) if key in ("data.train", "data.dev") else meant)
        recipe.write_text(to_yaml(config))
        assert load_config(recipe) == config


def test_for_a_recipe_that_is_not_there_the_nearest_is_named(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    for name in ("recipes/demo.yaml", "recipes/librispeech.yaml", "mine.yml", "notes.txt"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for given, said in (
        ("demo.yaml", "did you mean recipes/demo.yaml?"),
        ("recipes/demo.yml", "did you mean recipes/demo.yaml?"),
        ("recipes/demo", "did you mean recipes/demo.yaml?"),
        ("recipes/librspeech.yaml", "did you mean recipes/librispeech.yaml?"),
        (str(tmp_path / "recipes" / "dmeo.yaml"), f"did you mean {tmp_path / 'recipes' / 'demo.yaml'}?"),
        ("zzz.yaml", "recipes here are mine.yml, recipes/demo.yaml, recipes/librispeech.yaml"),
        ("recipes", "Is a directory; "),
    ):
        with pytest.raises(UserError) as error:
            load_config(given)
        assert given in str(error.value) and said in str(error.value), error.value


def kinds_of(cls: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """(key, what is expected there) of every value of a recipe."""
    for name, kind in get_type_hints(cls, include_extras=True).items():
        if dataclasses.is_dataclass(kind):
            yield from kinds_of(kind, f"{before}{name}.")
        else:
            yield f"{before}{name}", describe(kind)


@pytest.mark.parametrize(("key", "expected"), [*kinds_of(Config)])
def test_a_value_of_another_type_is_named_with_its_key_and_what_is_expected(key, expected, recipe):
    wrong = ["[[a]]"] + (["fast", "1.5.2"] if "text" not in expected and "one of" not in expected else [])
    for value in wrong:
        with pytest.raises(UserError) as error:
            load_config(recipe, [f"{key}={value}"])
        of_an_item = expected.removeprefix("a list of ").partition(" (")[0]
        assert re.search(rf"{re.escape(key)}(\[0\])? is .*, expected .*{of_an_item}", str(error.value))
