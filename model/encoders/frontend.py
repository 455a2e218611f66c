"""From a waveform to what an encoder's first layer expects."""

import torch
from torch import Tensor


def normalise(wave: Tensor) -> Tensor:
    """Zero mean and unit variance over one utterance, as Wav2Vec2FeatureExtractor(do_normalize=True) does.

    [N] -> [N].
    """
    wave = wave.to(torch.float32)
    return (wave - wave.mean()) / torch.sqrt(wave.var(unbiased=False) + 1e-7)
