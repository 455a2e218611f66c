"""Masks of a batch's frames."""

import torch

from data_prep.audio.augment import AugmentConfig
from model.batch import pack
from train.data.augmentation import Augmentation


def test_a_dimension_is_masked_in_every_layer_of_a_frame():
    augmentation = Augmentation(AugmentConfig(feature_masks=2, feature_mask_share=0.5), 0, len, dim=8, layers=3)
    batch = pack(["a", "b"], ["", ""], [[1], [1]], features=[torch.ones(5, 24), torch.ones(4, 24)])
    masked = augmentation.apply(batch, 0, [0, 1]).masked_dims
    assert masked is not None and masked.shape == (2, 24) and masked.any() and not masked.all()
    assert torch.equal(masked.unflatten(1, (3, 8)), masked[:, None, :8].expand(-1, 3, -1))
