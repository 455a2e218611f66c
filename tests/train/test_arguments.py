"""The command line of `python -m train`: what is wrong with it is one line, with what to write."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.errors import UserError
from train.__main__ import read_arguments

ROOT = Path(__file__).resolve().parents[2]


def test_overrides_may_stand_among_options():
    args = read_arguments(["r.yaml", "optim.lr=1", "--deepspeed", "zero3", "run.dir=x", "--allow-changes"])
    assert (args.recipe, args.overrides) == ("r.yaml", ["optim.lr=1", "run.dir=x"])
    assert (args.deepspeed, args.allow_changes) == ("zero3", True)


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ("--lr 1e-3", "optim.lr=1e-3"),
        ("--lr=1e-3", "optim.lr=1e-3"),
        ("--lr -1", "optim.lr=-1"),
        ("--lr optim.clip=1", "optim.lr=VALUE"),
        ("-lr 1e-3", "optim.lr=1e-3"),
        ("--run-dir x", "run.dir=x"),
        ("--optim.lr 1e-3", "optim.lr=1e-3"),
        ("--seed 7", "data.seed=7 or run.seed=7"),
        ("--deep zero3", "did you mean --deepspeed?"),
        ("--allow-change", "did you mean --allow-changes?"),
        ("--zzz", "--zzz is no option of `python -m train`"),
    ],
)
def test_an_unknown_option_is_refused_with_the_key_or_option_that_it_may_mean(arguments, written):
    with pytest.raises(UserError) as error:
        read_arguments(["r.yaml", *arguments.split()])
    assert arguments.split()[0].partition("=")[0] in str(error.value) and written in str(error.value)


def test_it_is_one_line_and_exit_code_2():
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK")}
    done = subprocess.run([sys.executable, "-m", "train"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("train: ") and done.stderr.count("\n") == 1, done.stderr
    assert "no recipe is given; write `python -m train RECIPE.yaml`" in done.stderr


def test_a_recipe_is_read_without_torch_which_takes_seconds_to_import():
    read = "import sys, train.recipe.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", read], cwd=ROOT).returncode == 0
