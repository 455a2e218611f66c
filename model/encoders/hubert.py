"""HuBERT (Hsu et al., arXiv 2106.07447) and encoders of the same architecture: waveform to 50 frames a second, frozen.

These are wav2vec 2.0 (2006.11477), WavLM (2110.13900), data2vec (2202.03555), UniSpeech (2101.07597) and UniSpeech-SAT
(2110.05752). No utterance is padded: with group norm in the convolutions (HuBERT-base) padding would change every
frame. When packed, only the convolutions are computed one utterance at a time."""

import torch
from torch import Tensor

from model.batch import Length
from model.encoders.waveform import WaveformEncoder
from model.packing import packed_lengths


class HubertEncoder(WaveformEncoder):
    """A HubertModel of transformers, or a model of the same architecture."""

    own_attention = ("wavlm",)

    @property
    def _stable_norm(self) -> bool:
        config = self.model.config
        return config.model_type != "data2vec-audio" and config.do_stable_layer_norm

    def drop_final_norm(self) -> None:
        if self._stable_norm:
            super().drop_final_norm()

    def out_len(self, num_samples: Length) -> Length:
        """From kernel sizes and strides of the convolutions; the shortest utterance has 25 ms."""
        for kernel, stride in zip(self.model.config.conv_kernel, self.model.config.conv_stride, strict=True):
            num_samples = (num_samples - kernel) // stride + 1
        return num_samples

    def encode_one(self, wave: Tensor) -> Tensor:
        output = self.model(self.prepared(wave), output_hidden_states=self.layers.several)
        if not self.layers.several:
            return output.last_hidden_state[0]
        return self.read(iter(output.hidden_states[1:]))[0]

    def encode_packed(self, waves: tuple[Tensor, ...], lengths: Tensor) -> Tensor:
        """The forward of transformers' HubertModel, with each utterance's convolutions at its own length."""
        body = self.model.encoder
        features = torch.cat([self.model.feature_extractor(self.prepared(wave))[0].T for wave in waves])  # [sum T, C]
        projected = self.model.feature_projection(features)
        frames = projected[0] if isinstance(projected, tuple) else projected  # [sum T, D]
        positions = [body.pos_conv_embed(utterance[None])[0] for utterance in frames.split(lengths.tolist())]
        hidden = (frames + torch.cat(positions))[None]
        hidden = hidden if self._stable_norm else body.layer_norm(hidden)
        selected = self.read(self.outputs(hidden, packing=packed_lengths(lengths, hidden.device)))
        return (body.layer_norm(selected) if self._stable_norm else selected)[0]
