"""Trainings of adapter and LoRA, and warm starts: what must not depend on how a recipe is run."""

import pytest
from safetensors.torch import load_file

from tests import ranks
from tests.train.runs import run

LORA = ["lora.rank=4", "lora.lr=1e-3", "lora.dropout=0.1", "model.dtype=float32"]
FILES = ("adapter.safetensors", "lora.safetensors", "optimizer.safetensors")


@pytest.mark.parametrize(("world", "stage"), [(2, 2), (2, 3)])
def test_ranks_and_zero_stages_give_one_loss_one_gradient_and_the_same_weights(
    ground, straight, tmp_path, world, stage
):
    reference, folder = straight(1, 0, *LORA), tmp_path / "run"
    run(ground, folder, *LORA, "optim.max_steps=2", world=world, stage=stage)
    assert ranks.losses(folder) == pytest.approx(ranks.losses(reference)[:2], rel=1e-5)
    norms = ranks.losses(folder, figure="grad_norm")
    assert norms == pytest.approx(ranks.losses(reference, figure="grad_norm")[:2], rel=1e-4)
    for name in FILES:
        ours, theirs = (load_file(path / "checkpoints" / "step-00000002" / name) for path in (folder, reference))
        assert ours.keys() == theirs.keys()
        assert all((tensor - theirs[key]).abs().max() < 1e-5 for key, tensor in ours.items())


def test_a_run_goes_on_with_another_number_of_ranks_and_another_stage(ground, straight, tmp_path):
    for world, stage, steps in ((2, 3, 2), (1, 0, 4), (3, 1, 6), (2, 2, 8)):
        run(ground, tmp_path / "run", *LORA, f"optim.max_steps={steps}", world=world, stage=stage)
    assert ranks.losses(tmp_path / "run") == pytest.approx(ranks.losses(straight(1, 0, *LORA)), rel=1e-5)
