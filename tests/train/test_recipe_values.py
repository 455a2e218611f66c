"""Paths of a recipe, and values of a wrong type: what is expanded, and what each refusal names."""

import re
from typing import Any

import pytest
import yaml

from model.errors import UserError
from train.recipe.config import Config, load_config
from train.recipe.identity import to_yaml
from train.recipe.kinds import dotted_names

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
    tree = yaml.safe_load(recipe.read_text().replace("1e-4", "0.0001"))
    tree.setdefault(section, {})[name] = written
    recipe.write_text(yaml.safe_dump(tree))
    for config in (overridden, load_config(recipe)):
        value = getattr(getattr(config, section), name)
        assert value == ((meant,) if key in ("data.train", "data.dev") else meant)
        recipe.write_text(to_yaml(config))
        assert load_config(recipe) == config


def test_for_a_recipe_that_is_not_there_the_nearest_is_named(tmp_path):
    (tmp_path / "demo.yaml").touch()
    for given, named in (("dmeo.yaml", f"did you mean {tmp_path / 'demo.yaml'}?"), ("zzz.yaml", "path of a recipe")):
        with pytest.raises(UserError) as error:
            load_config(tmp_path / given)
        assert str(tmp_path / given) in str(error.value) and named in str(error.value), error.value


@pytest.mark.parametrize("key", dotted_names(Config))
def test_a_value_of_another_type_is_refused_with_its_key_value_and_what_is_expected(key, recipe):
    section, name, *_ = key.split(".")
    model: Any = Config.model_fields[section].annotation
    kind = str(model.model_fields[name].annotation)
    numeric = ("int" in kind or "float" in kind) and "Literal['float" not in kind
    for value in ["[[a]]", *(["fast", "1.5.2"] if numeric else [])]:
        with pytest.raises(UserError) as error:
            load_config(recipe, [f"{key}={value}"])
        assert re.search(rf"{re.escape(key)}(\[0\])? is .*, expected ", str(error.value)), error.value
