"""What a recipe's augmentation does to a batch."""

import numpy as np
import torch

from data_prep.audio.augment import AugmentConfig
from model.batch import pack
from train.data.augmentation import Augmentation


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
