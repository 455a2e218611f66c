"""What encoders of the waveform itself have in common: HuBERT, all of its architecture, and Moonshine."""

from typing import Any

import torch
from torch import Tensor

from model.encoders.encoder import Encoder


class WaveformEncoder(Encoder):
    """An encoder whose input are samples, normalised if its feature extractor does so."""

    reads = ("do_normalize",)

    def prepare(self, extractor: Any) -> None:
        self.do_normalize: bool = extractor.do_normalize

    def preprocessing(self) -> dict[str, Any]:
        return {"normalise": self.do_normalize}

    def prepared(self, wave: Tensor) -> Tensor:
        """[N] -> [1, N] in the encoder's dtype."""
        return (normalise(wave) if self.do_normalize else wave).to(self.model.dtype)[None]


def normalise(wave: Tensor) -> Tensor:
    """[N] -> [N] of zero mean and unit variance, as Wav2Vec2FeatureExtractor(do_normalize=True)."""
    wave = wave.to(torch.float32)
    return (wave - wave.mean()) / torch.sqrt(wave.var(unbiased=False) + 1e-7)
