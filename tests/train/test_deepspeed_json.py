from pathlib import Path

import pytest

from model.errors import UserError
from train.recipe import deepspeed_json
from train.recipe.deepspeed_json import RECIPE_OWNS, read_deepspeed_json

SHIPPED = sorted((Path(__file__).parents[2] / "ds_configs").glob("*.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_what_is_shipped_passes_and_means_the_stage_in_its_name(path):
    assert read_deepspeed_json(path)["zero_optimization"]["stage"] == int(path.stem[4])


def test_every_known_zero_key_and_shipped_value_is_one_of_deepspeeds_own():
    from deepspeed.runtime.zero import offload_config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    for known, model in (
        (deepspeed_json.Zero, DeepSpeedZeroConfig),
        (deepspeed_json.OffloadParam, offload_config.DeepSpeedZeroOffloadParamConfig),
        (deepspeed_json.OffloadOptimizer, offload_config.DeepSpeedZeroOffloadOptimizerConfig),
    ):
        assert set(known.model_fields) <= {field.alias or name for name, field in model.model_fields.items()}
    for path in SHIPPED:
        DeepSpeedZeroConfig(**read_deepspeed_json(path)["zero_optimization"])


def test_a_whole_number_may_be_written_as_deepspeeds_examples_do(tmp_path):
    path = tmp_path / "d.json"
    path.write_text('{"zero_optimization": {"reduce_bucket_size": 5e8}}')
    assert read_deepspeed_json(path) == {"zero_optimization": {"reduce_bucket_size": 500_000_000, "stage": 0}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((f'{{"{key}": {{}}}}', f"set {ours} there") for ours, keys in RECIPE_OWNS.items() for key in keys),
        *((f'{{"{key}": true}}', "is set by the training engine") for key in deepspeed_json.ENGINE_OWNS),
        ('{"zero_optimisation": {}}', ": unknown key zero_optimisation, did you mean zero_optimization?"),
        ('{"zero_optimization": {"stag": 1}}', ": unknown key zero_optimization.stag, did you mean stage?"),
        ('{"zero_optimization": {"stage": 4}}', ": zero_optimization.stage is 4, expected 0, 1, 2 or 3"),
        ('{"zero_optimization": {"stage": true}}', ": zero_optimization.stage is true, expected a whole number"),
        ('{"zero_optimization": {"stage": "auto"}}', "stage is auto, expected a whole number; leave the key out"),
        ('{"zero_optimization": {"reduce_bucket_size": -1}}', "is -1, expected a number of at least 0"),
        ('{"zero_optimization": {"reduce_bucket_size": NaN}}', "NaN is not JSON"),
        ('{"zero_optimization": true}', ": zero_optimization is true, expected a section"),
        ('{"zero_optimization": {"stage": 1, "stage": 2}}', "'stage' is there twice"),
        ('{"aio": null}', ": aio is empty, expected a section"),
        ('{"communication_data_type": "int8"}', "is int8, expected fp32, bf16 or fp16"),
        ('{"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}', "to cpu needs stage 3"),
        ('{"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}', "nvme_path is missing"),
        ('{"zero_optimization": {"offload_optimizer": {"device": "disk"}}}', "is disk, expected none, cpu or nvme"),
        ('{\n"zero_optimization": {},}', ":2: not JSON:"),
        ("[1]", "is no DeepSpeed JSON"),
        ("[" * 50_000, "is not a JSON text"),
        ("1" * 5_000, "is not a JSON text"),
        (" " * 70_000, "is larger than 64 KiB"),
    ],
)  # fmt: skip
def test_a_key_that_deepspeed_ignores_or_the_recipe_sets_is_refused_by_name(text, message, tmp_path):
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_deepspeed_json(path)
    assert str(error.value).startswith(str(path)) and message in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match="cannot read the DeepSpeed JSON nowhere.json: No such file"):
        read_deepspeed_json("nowhere.json")
