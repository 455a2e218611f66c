import numpy as np
import pytest

from train.plan import Epochs, plan_epoch, plan_in_order

TOKENS = np.random.default_rng(0).integers(10, 120, 1000)
IDS = np.arange(1000)


def make(seed=1, epoch=0, ids=IDS, per_step=8):
    return plan_epoch(ids, TOKENS, seed, epoch, budget=500, per_step=per_step, window=128)


def flat(plan):
    return [batch.tolist() for batch in plan.micro_batches]


def test_every_sample_is_in_exactly_one_micro_batch_and_none_is_over_budget():
    plan = make()
    assert sorted(sum(flat(plan), [])) == IDS.tolist()
    assert all(len(batch) * TOKENS[batch].max() <= 500 for batch in plan.micro_batches)
    spent = sum(len(batch) * TOKENS[batch].max() for batch in plan.micro_batches)
    assert TOKENS.sum() / spent > 0.9, "most of what is computed is not padding"


def test_it_is_a_pure_function_of_seed_and_epoch():
    assert flat(make()) == flat(make())
    assert flat(make()) != flat(make(seed=2)) and flat(make()) != flat(make(epoch=1))


def test_every_step_has_g_micro_batches_and_only_the_last_has_empty_ones():
    plan = make(per_step=7)
    steps = [plan.step(number) for number in range(plan.num_steps)]
    assert all(len(step) == 7 for step in steps)
    assert all(len(batch) for step in steps[:-1] for batch in step)
    assert sum(len(batch) for step in steps for batch in step) == 1000


@pytest.mark.parametrize("world", [1, 2, 3, 5, 64])
def test_any_number_of_ranks_shares_the_same_steps(world):
    plan = make()
    dealt = [plan.step(3)[rank::world] for rank in range(world)]
    assert sorted(sample for rank in dealt for batch in rank for sample in batch) == sorted(
        sample for batch in plan.step(3) for sample in batch
    )


def test_a_step_of_the_run_is_found_in_its_epoch():
    epochs = Epochs(IDS, TOKENS, seed=1, budget=500, per_step=8, window=128)
    first, second = epochs.num_steps(0), epochs.num_steps(1)
    assert epochs.locate(0) == (0, 0) and epochs.locate(first) == (1, 0)
    assert epochs.locate(first + second + 2) == (2, 2)
    assert epochs.steps_of(2) == first + second
    assert first < epochs.steps_of(1.5) < first + second


def test_a_fraction_of_an_epoch_is_rounded_up_but_not_for_the_last_bit_of_a_float():
    epochs = Epochs(np.arange(10), np.full(10, 10), seed=1, budget=10, per_step=1, window=10)  # 10 steps an epoch
    assert [epochs.steps_of(share) for share in (1.1, 0.7, 2.3, 0.01, 1.11)] == [11, 7, 23, 1, 12]


def test_the_first_of_epochs_and_steps_ends_the_run_and_nothing_beyond_is_planned():
    epochs = Epochs(np.arange(10), np.full(10, 10), seed=1, budget=10, per_step=1, window=10)
    assert epochs.steps_of(None, 7) == 7 and epochs.steps_of(2, 35) == 20
    assert epochs.steps_of(1e9, 35) == 35 and epochs.steps_of(1.5, 14) == 14


def test_one_sample_is_a_plan():
    assert flat(make(ids=IDS[:1])) == [[0]] and make(ids=IDS[:1]).num_steps == 1


def test_validation_goes_longest_first():
    longest = [TOKENS[batch].max() for batch in plan_in_order(IDS, TOKENS, 500)]
    assert longest == sorted(longest, reverse=True)
