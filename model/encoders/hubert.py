"""HuBERT (Hsu et al., arXiv 2106.07447), wav2vec 2.0 and WavLM: waveform to 50 frames a second, frozen.

No utterance is padded, and none depends on the others of its batch: with group norm in the convolutions (HuBERT-base)
padding would change every frame. On a CPU utterances are encoded one by one. On a GPU only the convolutions are, and
the transformer reads all frames packed (model/packing.py): the same frames up to rounding."""

from typing import Any

import torch
from torch import Tensor, nn

from model.batch import Length, cumulative
from model.encoder_layers import read_layers
from model.packing import packed_lengths, switch_to_packed

OWN_ATTENTION = ("wavlm",)  # families whose attention is not transformers' shared one: always encoded one by one


class HubertEncoder(nn.Module):
    """The transformers model behind `out_len` and `forward`."""

    def __init__(self, model: Any, sample_rate: int, do_normalize: bool, layer: int | str | None, weights: str) -> None:
        """`model` is a loaded HubertModel or alike; `layer` as in model/encoder_layers.py; `weights` is their sha256.

        A layer's output is what the next layer gets; the last one's comes with the norm after it, if there is one
        (stable layer norm). A mean is over the outputs without that norm, added up in float32, cast to the dtype."""
        super().__init__()
        self.source = self.dtype_note = ""
        """The folder or id that it was loaded from; why it computes in another dtype than asked for, if it does."""
        self.model, self.dim = model, int(model.config.hidden_size)
        self.layers = read_layers(layer, model.config.num_hidden_layers)
        self.layer = self.layers.name
        self.sample_rate, self.do_normalize, self.weights = sample_rate, do_normalize, weights
        self.packs: bool = model.config.model_type not in OWN_ATTENTION and switch_to_packed(model) is None
        """Whether the transformer can read the utterances of a batch at once."""
        self.packed: bool = self.packs and next(model.encoder.parameters()).device.type == "cuda"
        """Whether it does: with the transformer's weights on a GPU (`model.device` is that of a weight no layer reads).
        On a CPU it is no faster, and one by one an utterance has the same bits in any batch."""
        self._stable_norm = getattr(model.config, "do_stable_layer_norm", False)
        self._averaged = self.layers.first < self.layers.last
        if self._averaged or self.layers.last < model.config.num_hidden_layers:
            model.encoder.layers = model.encoder.layers[: self.layers.last]  # layers that are not read do not compute
            if self._stable_norm:
                model.encoder.layer_norm = nn.Identity()

    def out_len(self, num_samples: Length) -> Length:
        """Frames of an utterance by the convolutions' arithmetic; below 1 if it is too short for `forward` (25 ms)."""
        for kernel, stride in zip(self.model.config.conv_kernel, self.model.config.conv_stride, strict=True):
            num_samples = (num_samples - kernel) // stride + 1
        return num_samples

    @torch.no_grad()
    def forward(self, audio: Tensor, audio_cu: Tensor) -> tuple[Tensor, Tensor]:
        """audio [sum N] with audio_cu [B + 1] -> frames [sum T, D] in the encoder's dtype, with frame_cu [B + 1]."""
        waves = [normalise(wave) if self.do_normalize else wave for wave in audio.split(audio_cu.diff().tolist())]
        waves = [wave.to(self.model.dtype)[None] for wave in waves]
        frame_cu = cumulative(self.out_len(audio_cu.diff()))
        if self.packed:
            return self._encode_packed(waves, frame_cu.diff()), frame_cu
        with torch.random.fork_rng(devices=[]):  # transformers draws numbers for layer drop even without one; the
            # adapter's dropout must not depend on whether frames are cached
            return torch.cat([self._encode_one(wave) for wave in waves]), frame_cu

    def _encode_one(self, wave: Tensor) -> Tensor:  # [1, N] -> [T, D]
        output = self.model(wave, output_hidden_states=self._averaged)
        if not self._averaged:
            return output.last_hidden_state[0]
        return self._mean(sum(hidden[0].float() for hidden in output.hidden_states[self.layers.first :]))

    def _mean(self, total: Any) -> Tensor:
        return (total / (self.layers.last + 1 - self.layers.first)).to(self.model.dtype)

    def _encode_packed(self, waves: list[Tensor], lengths: Tensor) -> Tensor:
        """B waves [1, N], lengths [B] in frames -> [sum T, D]: the forward of transformers' HubertModel, with each
        utterance's convolutions at its own length."""
        body = self.model.encoder
        features = torch.cat([self.model.feature_extractor(wave)[0].T for wave in waves])  # [sum T, C]
        projected = self.model.feature_projection(features)
        frames = projected[0] if isinstance(projected, tuple) else projected  # [sum T, D]
        positions = [body.pos_conv_embed(utterance[None])[0] for utterance in frames.split(lengths.tolist())]
        hidden = (frames + torch.cat(positions))[None]
        hidden = hidden if self._stable_norm else body.layer_norm(hidden)
        packing, total = packed_lengths(lengths, hidden.device), 0.0
        for number, layer in enumerate(body.layers, 1):
            hidden = layer(hidden, packing=packing)
            if self._averaged and number >= self.layers.first:
                total = total + hidden[0].float()
        if self._averaged:
            return self._mean(total)
        return (body.layer_norm(hidden) if self._stable_norm else hidden)[0]

    def fingerprint(self) -> dict[str, Any]:
        """All that determines the frames of a waveform; cached features of another fingerprint are refused."""
        return {
            "family": self.model.config.model_type,
            "weights": self.weights,
            "layer": self.layer,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "normalise": self.do_normalize,
            "sample_rate": self.sample_rate,
            "dim": self.dim,
        }


def normalise(wave: Tensor) -> Tensor:
    """[N] -> [N] of zero mean and unit variance, as Wav2Vec2FeatureExtractor(do_normalize=True)."""
    wave = wave.to(torch.float32)
    return (wave - wave.mean()) / torch.sqrt(wave.var(unbiased=False) + 1e-7)
