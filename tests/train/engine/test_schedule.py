import math

import pytest

from train.engine.schedule import SCHEDULES, learning_rate
from train.recipe.config import OptimConfig

LR = 0.5


@pytest.mark.parametrize(
    ("schedule", "share_by_step"),
    [
        ("constant", {0: 0.25, 1: 0.5, 2: 0.75, 3: 1.0, 4: 1.0, 11: 1.0, 12: 1.0, 99: 1.0}),
        ("linear", {0: 0.25, 3: 1.0, 4: 1.0, 5: 0.875, 8: 0.5, 11: 0.125, 12: 0.0, 99: 0.0}),
        ("cosine", {0: 0.25, 3: 1.0, 4: 1.0, 6: (1 + math.sqrt(0.5)) / 2, 8: 0.5, 12: 0.0, 99: 0.0}),
    ],
)
def test_four_steps_of_warm_up_and_then_the_schedule_over_the_other_eight(schedule, share_by_step):
    optim = OptimConfig(lr=LR, schedule=schedule, warmup_steps=4, max_steps=12)
    for step, share in share_by_step.items():
        assert learning_rate(step, optim, total_steps=12) == pytest.approx(LR * share, abs=1e-12), step


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("total_steps", [1, 2, 7])
def test_no_update_of_a_run_is_wasted_on_a_learning_rate_of_zero(schedule, total_steps):
    for warmup in range(total_steps + 2):  # none, some, all, more than all
        optim = OptimConfig(lr=LR, schedule=schedule, warmup_steps=warmup, max_steps=total_steps)
        assert all(0 < learning_rate(step, optim, total_steps) <= LR for step in range(total_steps))


def test_a_ratio_is_that_share_of_all_steps_rounded_up():
    by_ratio = OptimConfig(lr=LR, warmup_ratio=0.25, max_steps=10)
    by_steps = OptimConfig(lr=LR, warmup_steps=3, max_steps=10)
    assert [learning_rate(i, by_ratio, 10) for i in range(10)] == [learning_rate(i, by_steps, 10) for i in range(10)]


def test_the_papers_warm_up_is_a_thousand_steps():
    optim = OptimConfig(lr=LR, epochs=1.0, warmup_steps=1000)
    assert [learning_rate(step, optim, 5000) for step in (0, 499, 999, 1000, 4999)] == [LR / 1000, LR / 2, LR, LR, LR]
