"""Slips that are common in YAML: the line that is wrong, and how it is written right."""

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
    ("right", "wrong", "line", "said"),
    [
        ('prompt: "USER: <speech> ASSISTANT:"', "prompt: USER: <speech> ASSISTANT:", 4, 'prompt: "USER: <speech> ASSI'),
        ('prompt: "USER: <speech> ASSISTANT:"', 'prompt: say "x": <speech>', 4, "prompt: 'say \"x\": <speech>'"),
        ("{dir: runs/one}", "{dir: runs: one}", 10, 'put the text in quotes: dir: "runs: one"'),
        ("lr: 1e-4", "lr:1e-4", 8, "no space after the colon of lr; write lr: 1e-4"),
        ("max_steps: 100", "max_steps:100", 9, "no space after the colon of max_steps; write max_steps: 100"),
        ("  lr: 1e-4\n  max_steps: 100", "  max_steps:100", 7, "optim is max_steps:100, expected a section"),
        ("run: {", "run:{", 10, "no space after the colon of run; write run: {"),
        ("{dir: r", "{dir:r", 10, "no space after the colon of dir; write dir: runs/one"),
        (
            "  max_steps",
            "   max_steps",
            9,
            "max_steps is indented by 3, lr before it by 2; indent all keys of a section",
        ),
        ("  max_steps", " max_steps", 9, "max_steps is indented by 1, lr before it by 2; indent all keys of a section"),
        ("  llm", "  # of Meta\n\n    llm", 5, "llm is indented by 4, encoder before it by 2"),
        ("encoder: models", "encoder: 'models", 2, "the quote ' is not closed; write encoder: 'models/hubert'"),
        ("encoder: models", 'encoder: "models', 2, 'the quote " is not closed; write encoder: "models/hubert"'),
        ("  lr", "\tlr", 8, "a tab at the beginning of the line; indent with spaces, not tabs"),
        ("lr: ", "lr:\t", 8, "a tab inside the line"),
        ("{dir: runs/one}", "{dir: runs/one", 10, "the { is not closed; close it with }"),
        ("train: data/train", "train: [data/train", 6, "the [ is not closed; close it with ]"),
        ("dir: runs", "dir: @runs", 10, "text that begins with @ is written in quotes"),
        ("encoder: models", "encoder: 'models' ", 2, "text goes on after a closing quote"),
    ],
)
def test_a_slip_is_named_with_its_line_and_how_it_is_written_right(right, wrong, line, said, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(GOOD)
    load_config(recipe)
    recipe.write_text(GOOD.replace(right, wrong, 1))
    with pytest.raises(UserError) as error:
        load_config(recipe)
    assert str(error.value).startswith(f"{recipe}:{line}: ") and said in str(error.value), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("lines", ["a\x0bb: 'x\n", "{\x85\x85{", "\u2028'", "? |", "a: >\n  x: @", "[" * 7 + ":"])
def test_whatever_the_text_is_it_is_one_line(lines, tmp_path):
    (tmp_path / "recipe.yaml").write_text(lines)
    with pytest.raises(UserError) as error:
        load_config(tmp_path / "recipe.yaml")
    assert "\n" not in str(error.value)
