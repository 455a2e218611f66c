"""What a recipe's augmentation does to a batch."""

import numpy as np
import pytest
import torch

from data_prep.audio.augment import AugmentConfig
from model.batch import pack
from model.errors import UserError
from tests.tiny import tiny_recogniser
from train.data.augmentation import Augmentation, open_augmentation


def test_the_same_dimensions_of_all_layers_that_lie_side_by_side_are_masked():
    config = AugmentConfig(feature_masks=2, feature_mask_share=0.3, time_masks=1)
    keys, ids = ("a", "b"), np.array([4, 9])
    narrow, wide = (
        Augmentation(config, 1, len, 10, layers).apply(
            pack(keys, keys, [[1], [1]], features=[torch.ones(80, 10 * layers)] * 2), 0, ids
        )
        for layers in (1, 3)
    )
    assert narrow.masked_dims is not None and narrow.masked_dims.any() and wide.masked_dims is not None
    assert torch.equal(wide.masked_dims, torch.cat([narrow.masked_dims] * 3, 1))
    assert narrow.masked_frames is not None and wide.masked_frames is not None
    assert torch.equal(wide.masked_frames, narrow.masked_frames)


def test_a_recording_that_is_replaced_has_an_empty_answer_and_the_length_that_is_planned():
    config = AugmentConfig(silence_share=0.5, speed=(0.9, 1.1))
    augmentation, ids = Augmentation(config, 3, lambda samples: samples // 320, 10, 1), np.arange(40)
    waves = [torch.full((1000 + i,), 0.5) for i in range(40)]
    batch = augmentation.apply(pack(list(map(str, ids)), ["words"] * 40, [[7, 8, 1]] * 40, waves=waves), 2, ids)
    replaced = np.array([text == "" for text in batch.texts])
    assert 10 < replaced.sum() < 30
    assert batch.target_cu.diff().tolist() == np.where(replaced, 1, 3).tolist()
    assert batch.num_targets == 40 + 2 * (~replaced).sum() and batch.targets[batch.target_cu[1:] - 1].eq(1).all()
    planned = augmentation.samples(np.array([len(wave) for wave in waves]), 2)
    assert batch.audio_cu.diff().tolist() == planned.tolist()
    assert batch.audio is not None
    for wave, gone in zip(batch.audio.split(planned.tolist()), replaced, strict=True):
        assert gone != (wave.mean() > 0.4)
    alone = augmentation.apply(pack(["9"], ["words"], [[7, 8, 1]], waves=waves[9:10]), 2, ids[9:10])
    assert alone.audio is not None and torch.equal(alone.audio, batch.audio.split(planned.tolist())[9])


def test_cached_features_cannot_be_replaced(tmp_path):
    model, _ = tiny_recogniser(tmp_path)
    with pytest.raises(UserError, match=r"augment.silence_share is 0.1, which cached.*--split silence.*--allow-empty"):
        open_augmentation(AugmentConfig(silence_share=0.1), "features", 0, model)


def test_masked_tokens_are_a_share_of_all_and_the_same_in_any_batch():
    augmentation, ids = Augmentation(AugmentConfig(text_mask_share=0.25), 3, len, 10, 1), np.arange(200)
    features, targets = [torch.ones(4, 10)] * 200, [[5] * (1 + i % 9) for i in range(200)]

    def masked(chosen):
        keys = [str(i) for i in chosen]
        batch = pack(keys, keys, [targets[i] for i in chosen], features=[features[i] for i in chosen])
        changed = augmentation.apply(batch, 2, chosen).masked_targets
        assert changed is not None and changed.shape == batch.targets.shape
        return changed

    whole = masked(ids)
    assert 0.2 < float(whole.float().mean()) < 0.3
    per_utterance = whole.split([len(one) for one in targets])
    assert torch.equal(masked(np.array([150, 7])), torch.cat([per_utterance[150], per_utterance[7]]))
