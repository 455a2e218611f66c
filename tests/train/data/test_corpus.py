"""A limit on a dev set takes utterances from all of it, and a best score of other utterances does not count."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from data_prep.shards.index import ShardIndex
from data_prep.shards.opening import read_index
from tests.train.runs import run
from train.data.corpus import Corpus, spread
from train.engine.checkpoint import load_checkpoint
from train.resume import comparable


@pytest.mark.parametrize(("count", "limit"), [(10, 3), (10, 9), (7, 1), (500, 60)])
def test_a_limit_takes_of_each_part_its_share(count, limit):
    ids = np.arange(100, 100 + count)
    taken = spread(ids, limit)
    assert len(taken) == len(set(taken.tolist())) == limit and list(taken) == sorted(taken) and set(taken) <= set(ids)
    for part in np.array_split(ids, 2):
        assert abs(np.isin(taken, part).sum() - limit / 2) <= 1


def test_all_are_taken_where_the_limit_is_not_reached():
    ids = np.arange(4)
    assert all(list(spread(ids, limit)) == [0, 1, 2, 3] for limit in (4, 5, None))


def test_a_best_score_of_other_dev_utterances_does_not_count(ground, tmp_path):
    watched = [f"data.dev={ground / 'dev'}", "eval.wer=false", "save.best=loss", "eval.every_steps=1"]
    few = [*watched, "data.max_dev_samples=4"]
    assert "do not count" not in run(ground, tmp_path / "run", *few, "optim.max_steps=1")
    assert "do not count" not in run(ground, tmp_path / "run", *few, "optim.max_steps=2")
    text = run(ground, tmp_path / "run", *watched, "optim.max_steps=3")
    assert "the utterances of data.dev are others than before: evaluations up to step 2 do not count" in text
    saved = load_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000003").state
    assert saved.best_step == 3
    index = read_index(ground / "dev")
    some, every = (dev_set(index, count) for count in (4, len(index)))
    assert saved.dev == every.chosen and comparable(saved, "loss", every) == saved
    assert comparable(saved, "loss", some).best is None and comparable(saved, "accuracy", every).best is None
    earlier = replace(saved, dev=None)  # of a version that took the first utterances
    assert comparable(earlier, "loss", every) == earlier and comparable(earlier, "loss", some).best_step is None


def dev_set(index: ShardIndex, count: int) -> Any:
    nothing = np.zeros(0)
    return Corpus(None, index, np.arange(count), nothing, nothing, {}, 0)  # pyright: ignore[reportArgumentType]
