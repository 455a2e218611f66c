"""Moonshine's encoder (Jeffries et al., arXiv 2410.15608): waveform to 41.7 frames a second, frozen.

The decoder is not loaded. Group norm is over the whole utterance, so no utterance is padded; when packed, only the
convolutions are computed one utterance at a time."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.batch import Length
from model.encoders.waveform import WaveformEncoder
from model.packing import packed_lengths


class MoonshineEncoder(WaveformEncoder):
    """A MoonshineEncoder of transformers."""

    depth_name = "encoder_num_hidden_layers"
    samples_per_frame = 384  # 64 x 3 x 2
    key_mapping = {r"^(model\.)?encoder\.": ""}

    @classmethod
    def architecture(cls, model_type: str) -> Any:
        from transformers.models.moonshine.modeling_moonshine import MoonshineEncoder as Moonshine

        return Moonshine

    @classmethod
    def usual_extractor(cls, config: Any) -> Any:
        from transformers import Wav2Vec2FeatureExtractor

        return Wav2Vec2FeatureExtractor(do_normalize=False)

    @property
    def body(self) -> Any:
        return self.model

    def out_len(self, num_samples: Length) -> Length:
        """From kernel sizes and strides of the convolutions; the shortest utterance has 56 ms."""
        for convolution in (self.model.conv1, self.model.conv2, self.model.conv3):
            num_samples = (num_samples - convolution.kernel_size[0]) // convolution.stride[0] + 1
        return num_samples

    def encode_one(self, wave: Tensor) -> Tensor:
        hidden = self._convolved(wave)[None]
        return self._encoded(hidden, torch.arange(hidden.shape[1], device=hidden.device))

    def encode_packed(self, waves: tuple[Tensor, ...], lengths: Tensor) -> Tensor:
        hidden = torch.cat([self._convolved(wave) for wave in waves])[None]
        positions = torch.cat([torch.arange(length) for length in lengths.tolist()])
        packing = packed_lengths(lengths, hidden.device)
        return self._encoded(hidden, positions.to(hidden.device, non_blocking=True), packing=packing)

    def _convolved(self, wave: Tensor) -> Tensor:  # [N] -> [T, D]
        model = self.model
        hidden = model.groupnorm(torch.tanh(model.conv1(self.prepared(wave)[None])))
        return F.gelu(model.conv3(F.gelu(model.conv2(hidden))))[0].T

    def _encoded(self, hidden: Tensor, positions: Tensor, **packing: Any) -> Tensor:  # [1, T, D], [T] -> [T, dim]
        rotations = self.model.rotary_emb(hidden, position_ids=positions[None])
        outputs = self.outputs(hidden, attention_mask=None, position_embeddings=rotations, **packing)
        return self.model.layer_norm(self.read(outputs))[0]
