import numpy as np
import pytest
import torch

from bench import loaders
from bench.goal import Goal
from bench.loaders import Streamed, consume, threads
from data_prep.audio.decode import decode, write_flac
from data_prep.build.build import BuildOptions, build
from data_prep.shards.opening import read_index, shard_path
from data_prep.utterance import Utterance
from model.prompt import Prompt
from tests.data_prep.conftest import tone
from tests.data_prep.shards.test_reader import Letters


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_measured_against_each_other_delivers_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(loaders, "MICRO_BATCH_SECONDS", 2.0)
    spoken = []
    for number in range(12):
        write_flac(tmp_path / f"{number}.flac", tone(0.2 + 0.05 * number, seed=number))
        spoken.append(Utterance(f"utt-{number:02}", str(tmp_path / f"{number}.flac"), f"text {number}"))
    build(spoken, tmp_path / "shards", BuildOptions(shard_size=5))
    index, prompt = read_index(tmp_path / "shards"), Prompt(Letters())
    tars = tuple(shard_path(index, shard) for shard in range(len(index.shards)))
    ours = by_key(threads(index, prompt))
    theirs = by_key(Streamed(tars, prompt, "flac", decode, torch.from_numpy))
    assert set(ours) == set(theirs) == set(index.key)
    for key, (wave, targets) in ours.items():
        assert np.array_equal(wave, theirs[key][0]) and targets == theirs[key][1]
    with pytest.raises(RuntimeError, match="gave 12 utterances, there are 13"):
        consume(threads(index, prompt), 13)


def by_key(batches):
    found = {}
    for batch in batches:
        assert int(batch.audio_cu[-1]) <= 2.1 * 16000
        waves = batch.audio.split(batch.audio_cu.diff().tolist())
        targets = batch.targets.split(batch.target_cu.diff().tolist())
        found |= {key: (w.numpy(), t.tolist()) for key, w, t in zip(batch.keys, waves, targets, strict=True)}
    return found


def test_a_goal_is_met_from_its_own_side():
    for figure, higher, lower in ((1.0, False, True), (2.0, True, True), (3.0, True, False)):
        assert Goal("1", "", figure, 2.0, "higher", "x", "", "").met is higher
        assert Goal("1", "", figure, 2.0, "lower", "x", "", "").met is lower
