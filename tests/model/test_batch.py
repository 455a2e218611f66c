"""A batch with its speech changed: masked, or another utterance's."""

from dataclasses import replace

import pytest
import torch

from model.batch import Batch, pack, with_empty_answers, with_frames_masked, with_speech_rolled

TEXTS = ["one", "two", "three"]
LENGTHS = [3, 1, 4]


def batch_of(kind: str) -> Batch:
    generator = torch.Generator().manual_seed(0)
    shape = (2,) if kind == "features" else ()
    speech = [torch.randn(n, *shape, generator=generator) for n in LENGTHS]
    return pack(TEXTS, TEXTS, [[3], [4, 5], [6]], **{kind: speech})


def test_masked_frames_and_dimensions_are_zero_and_nothing_else_is():
    batch = batch_of("features")
    assert batch.features is not None
    before = batch.features.clone()
    frames = torch.tensor([1, 0, 0, 0, 0, 1, 1, 0]).bool()
    dims = torch.tensor([[0, 1], [0, 0], [1, 0]]).bool()
    masked = replace(batch, masked_frames=frames, masked_dims=dims).to("cpu")
    found = with_frames_masked(batch.features, batch.feature_cu, masked)
    zero = [[1, 1], [0, 1], [0, 1], [0, 0], [1, 0], [1, 1], [1, 1], [1, 0]]
    assert torch.equal(found == 0, torch.tensor(zero).bool())
    assert torch.equal(found[found != 0], before[found != 0]) and torch.equal(batch.features, before)
    assert with_frames_masked(batch.features, batch.feature_cu, batch) is batch.features


def test_an_answer_that_is_emptied_is_its_end_alone():
    batch = with_empty_answers(batch_of("waves"), [False, True, True])
    assert batch.texts == ("one", "", "") and batch.keys == tuple(TEXTS)
    assert batch.targets.tolist() == [3, 5, 6] and batch.target_cu.tolist() == [0, 1, 2, 3] and batch.num_targets == 3


def test_a_batch_moves_with_its_masks():
    masks = {"masked_frames": torch.ones(8).bool(), "masked_dims": torch.ones(3, 2).bool()}
    moved = replace(batch_of("features"), **masks).to("meta")
    assert moved.audio is None and moved.feature_cu.device.type == moved.target_cu.device.type == "cpu"
    for tensor in (moved.features, moved.targets, moved.masked_frames, moved.masked_dims):
        assert tensor is not None and tensor.device.type == "meta"


@pytest.mark.parametrize("kind", ["waves", "features"])
def test_rolled_speech_is_the_next_utterances_under_the_same_text(kind):
    batch = batch_of(kind)
    rolled = with_speech_rolled(batch)
    assert (rolled.keys, rolled.texts) == (batch.keys, batch.texts)
    assert torch.equal(rolled.targets, batch.targets) and torch.equal(rolled.target_cu, batch.target_cu)
    before, after = speech_of(batch), speech_of(rolled)
    assert [len(part) for part in after] == [1, 4, 3]
    assert all(torch.equal(after[i], before[(i + 1) % 3]) for i in range(3))
    back = with_speech_rolled(with_speech_rolled(rolled))
    assert all(torch.equal(one, other) for one, other in zip(speech_of(back), before, strict=True))


def speech_of(batch: Batch) -> list[torch.Tensor]:
    if batch.audio is None:
        assert batch.features is not None
        return list(batch.features.split(batch.feature_cu.diff().tolist()))
    return list(batch.audio.split(batch.audio_cu.diff().tolist()))


def test_masks_roll_with_the_speech_they_mask():
    batch = batch_of("features")
    frames = torch.arange(8) % 3 == 0
    dims = torch.tensor([[0, 1], [0, 0], [1, 0]]).bool()
    batch = replace(batch, masked_frames=frames, masked_dims=dims)
    rolled = with_speech_rolled(batch)
    assert batch.features is not None and rolled.features is not None
    hidden = with_frames_masked(batch.features, batch.feature_cu, batch)
    wanted = speech_of(with_speech_rolled(replace(batch, features=hidden)))
    found = with_frames_masked(rolled.features, rolled.feature_cu, rolled)
    assert torch.equal(found, torch.cat(wanted)) and (found == 0).any()
