"""Common slips in YAML: the wrong line is named, with how to write it."""

import pytest

from model.errors import UserError
from train.recipe.config import load_config

GOOD = """\
model:
  encoder: models/hubert
  llm: models/llama
  prompt: "USER: <speech> ASSISTANT:"
data:
  train: data/train
optim:
  lr: 1e-4
  max_steps: 100
run: {dir: runs/one}
"""


@pytest.mark.parametrize(
    ("right", "wrong", "line", "values"),
    [
        ('prompt: "USER: <speech> ASSISTANT:"', "prompt: USER: <speech> ASSISTANT:", 4, ["prompt: USER", "quotes"]),
        (
            'prompt: "USER: <speech> ASSISTANT:"',
            'prompt: say "x": <speech>',
            4,
            ['prompt: say "x": <speech>', "quotes"],
        ),
        ("{dir: runs/one}", "{dir: runs: one}", 10, ["run: {dir: runs: one}", "quotes"]),
        ("lr: 1e-4", "lr:1e-4", 8, ["no space after the colon of lr; write lr: 1e-4"]),
        ("max_steps: 100", "max_steps:100", 9, ["write max_steps: 100"]),
        ("  lr: 1e-4\n  max_steps: 100", "  max_steps:100", 7, ["optim is max_steps:100", "write max_steps: 100"]),
        ("run: {", "run:{", 10, ["write run: {"]),
        ("{dir: r", "{dir:r", 10, ["write dir: runs/one"]),
        ("  max_steps", "   max_steps", 9, ["max_steps: 100", "indent"]),
        ("  max_steps", " max_steps", 9, ["max_steps: 100", "indent"]),
        ("  llm", "  # of Meta\n\n    llm", 5, ["llm: models/llama", "indent"]),
        ("encoder: models", "encoder: 'models", 2, ["encoder: 'models/hubert", "the quote is not closed"]),
        ("encoder: models", 'encoder: "models', 2, ['encoder: "models/hubert', "the quote is not closed"]),
        ("  lr", "\tlr", 8, ["lr: 1e-4", "tab"]),
        ("lr: ", "lr:\t", 8, ["tab"]),
        ("{dir: runs/one}", "{dir: runs/one", 10, ["{dir: runs/one", "the { is not closed; close it with }"]),
        ("run: {dir: runs/one}", "run: {dir: runs/one\nlog: {}", 10, ["run: {dir: runs/one", "the { is not closed"]),
        ("train: data/train", "train: [data/train", 6, ["the [ is not closed; close it with ]"]),
        ("dir: runs", "dir: @runs", 10, ["dir: @runs", "quotes"]),
        ("encoder: models", "encoder: 'models' ", 2, ["encoder: 'models' /hubert", "after a closing quote"]),
    ],
)
def test_a_slip_is_named_with_its_line_and_how_to_write_it(right, wrong, line, values, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(GOOD)
    load_config(recipe)
    recipe.write_text(GOOD.replace(right, wrong, 1))
    with pytest.raises(UserError) as error:
        load_config(recipe)
    assert str(error.value).startswith(f"{recipe}:{line}: ") and all(value in str(error.value) for value in values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("lines", ["a\x0bb: 'x\n", "{\x85\x85{", "\u2028'", "? |", "a: >\n  x: @", "[" * 7 + ":"])
def test_whatever_the_text_is_it_is_one_line(lines, tmp_path):
    (tmp_path / "recipe.yaml").write_text(lines)
    with pytest.raises(UserError) as error:
        load_config(tmp_path / "recipe.yaml")
    assert "\n" not in str(error.value)
