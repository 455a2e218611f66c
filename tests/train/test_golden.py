"""The losses of a tiny training are those of the stored curve, on whatever CPU."""

import json

import pytest

from tests.train.golden import FILE, curve


def test_thirty_steps_have_the_stored_losses_and_gradient_norms(ground, tmp_path):
    stored = json.loads(FILE.read_text())
    for name, values in curve(ground, tmp_path).items():
        assert values == pytest.approx(stored[name], rel=1e-5 if name == "loss" else 1e-2), (
            f"the {name} of a training changed; if it should, run `python -m tests.train.golden` and say why"
        )
