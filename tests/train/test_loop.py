"""A step whose gradient is not a number must not reach a checkpoint."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.slam_asr import Output
from train.loop import train_step
from train.world import AgreedError

ALONE: Any = SimpleNamespace(device="cpu", sum=lambda *values: list(values), gather=lambda value: [value])
SLOT: Any = SimpleNamespace(number=0, counts=True, seconds=1.0, batch=SimpleNamespace(num_targets=2, keys=("utt-7",)))


@pytest.mark.parametrize("loss, norm", [(float("nan"), 1.0), (float("inf"), 1.0), (3.0, float("nan"))])
def test_a_loss_or_a_gradient_that_is_not_finite_ends_the_run_and_names_the_utterances(loss, norm):
    engine: Any = SimpleNamespace(
        forward=lambda batch: Output(torch.tensor(loss), torch.tensor(1)),
        backward=lambda loss, num_targets: None,
        step=lambda lr: norm,
        lr=0.1,
    )
    with pytest.raises(AgreedError, match=r"step 5 has a loss of .* and a gradient of norm nan \(utterances utt-7"):
        train_step(engine, [SLOT], 0.1, seed=0, step=4, world=ALONE)
