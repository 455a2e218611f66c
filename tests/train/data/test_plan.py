import numpy as np
import pytest

from train.data.plan import Epochs, ShardWindow, cost_of, plan_epoch, plan_in_order

TOKENS = np.random.default_rng(0).integers(10, 120, 1000)
IDS = np.arange(1000)


def make(seed=1, epoch=0, ids=IDS, per_step=8, budget=500):
    return plan_epoch(ids, TOKENS, seed, epoch, budget, per_step)


def flat(plan):
    return [batch.tolist() for number in range(plan.num_steps) for batch in plan.step(number)]


@pytest.mark.parametrize("per_step", [1, 2, 7, 8, 64, 2000])
@pytest.mark.parametrize("budget", [122, 500, 5000])
def test_every_sample_is_in_exactly_one_micro_batch_and_none_is_over_budget(per_step, budget):
    plan = make(per_step=per_step, budget=budget)
    batches = flat(plan)
    assert sorted(sum(batches, [])) == IDS.tolist() and len(batches) == plan.num_steps * per_step
    assert all(cost_of(TOKENS[batch]).sum() <= budget for batch in batches)


def test_the_budget_is_used_and_the_ranks_have_the_same_work():
    assert np.mean([cost_of(TOKENS[batch]).sum() for batch in flat(make())]) > 0.9 * 500
    plan = make(per_step=64)
    assert np.mean([plan.load_balance(number, 64) for number in range(plan.num_steps)]) > 0.9
    random = np.array_split(np.random.default_rng(1).permutation(IDS), plan.num_steps * 64)
    steps = np.array([cost_of(TOKENS[batch]).sum() for batch in random]).reshape(-1, 64)
    assert (steps.mean(axis=1) / steps.max(axis=1)).mean() < 0.75, "what the same measure says of random batches"


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_the_load_balance_of_a_step_is_that_of_its_ranks(ranks):
    plan = make()
    dealt = [sum(int(cost_of(TOKENS[batch]).sum()) for batch in plan.step(2)[rank::ranks]) for rank in range(ranks)]
    assert plan.load_balance(2, ranks) == pytest.approx(np.mean(dealt) / max(dealt))


def test_it_is_a_pure_function_of_seed_and_epoch():
    assert make().digest() == make().digest()
    assert len({make().digest(), make(seed=2).digest(), make(epoch=1).digest(), make(per_step=4).digest()}) == 4


def test_the_order_never_changes_from_one_version_to_the_next():
    """Or a run could not be continued; if this must change, so must the checkpoint's version."""
    assert make().digest() == "86f653f7636208bfd620b08491eddc530e8099b401f182976123f1a6ade5ce7f"


def test_a_few_shards_at_a_time_are_shuffled_together_others_in_each_epoch():
    shard = IDS // 50
    first, second = (plan_epoch(IDS, TOKENS, 1, epoch, 500, 8, ShardWindow(shard, 4)) for epoch in (0, 1))
    for plan in (first, second):
        assert sorted(sum(flat(plan), [])) == IDS.tolist()
        per_step = [len(set(shard[np.concatenate(plan.step(n))].tolist())) for n in range(plan.num_steps)]
        assert max(per_step) <= 8 and np.mean(per_step) < 6  # a step may lie across two turns
    assert first.digest() != second.digest()
    assert set(shard[np.concatenate(first.step(0))]) != set(shard[np.concatenate(second.step(0))])


@pytest.mark.parametrize("world", [1, 2, 3, 5, 64])
def test_any_number_of_ranks_shares_the_same_steps(world):
    plan = make()
    dealt = [plan.step(3)[rank::world] for rank in range(world)]
    assert sorted(sample for rank in dealt for batch in rank for sample in batch) == sorted(
        sample for batch in plan.step(3) for sample in batch
    )


def epochs_of(count=10):
    return Epochs(np.arange(count), lambda epoch: np.full(count, 10), seed=1, budget=10, per_step=1)  # a step each


def test_a_step_of_the_run_is_found_in_its_epoch():
    epochs = Epochs(IDS, lambda epoch: TOKENS + epoch, seed=1, budget=500, per_step=8)
    first, second = epochs.num_steps(0), epochs.num_steps(1)
    assert epochs.locate(0) == (0, 0) and epochs.locate(first) == (1, 0)
    assert epochs.locate(first + second + 2) == (2, 2)
    assert epochs.steps_of(2) == first + second
    assert first < epochs.steps_of(1.5) < first + second


def test_a_fraction_of_an_epoch_is_rounded_up_but_not_for_the_last_bit_of_a_float():
    assert [epochs_of().steps_of(share) for share in (1.1, 0.7, 2.3, 0.01, 1.11)] == [11, 7, 23, 1, 12]


def test_the_first_of_epochs_and_steps_ends_the_run_and_nothing_beyond_is_planned():
    assert epochs_of().steps_of(None, 7) == 7 and epochs_of().steps_of(2, 35) == 20
    assert epochs_of().steps_of(1e9, 35) == 35 and epochs_of().steps_of(1.5, 14) == 14


def test_one_sample_is_a_plan():
    assert flat(make(ids=IDS[:1])) == [[0], *[[]] * 7] and make(ids=IDS[:1]).num_steps == 1


def test_validation_goes_longest_first():
    longest = [TOKENS[batch].max() for batch in plan_in_order(IDS, TOKENS, 500)]
    assert longest == sorted(longest, reverse=True)
