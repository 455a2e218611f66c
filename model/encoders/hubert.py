"""HuBERT (Hsu et al., arXiv 2106.07447): waveform to 50 frames a second, frozen.

No utterance is padded, and none sees its neighbours. With group norm in the convolution stack (HuBERT-base) a padded
batch would change every frame. On a CPU utterances are encoded one by one. On a GPU only the convolutions are, and the
transformer reads all frames at once, end to end (model/packing/packed.py): the same frames to rounding.
"""

from threading import local
from typing import Any

import torch
from torch import Tensor, nn

from model.batch import Length, cumulative
from model.encoder_layers import read_layers
from model.encoders.frontend import normalise
from model.packing.packed import packing_of, switch_to_packed

OWN_ATTENTION = ("wavlm",)
"""Families whose attention is not transformers' shared one: always encoded one by one."""


class HubertEncoder(nn.Module):
    """The transformers model behind `out_len` and `forward`; HuBERT, wav2vec 2.0 and WavLM share this architecture."""

    def __init__(self, model: Any, sample_rate: int, do_normalize: bool, layer: int | str | None, weights: str) -> None:
        """`model` is a loaded HubertModel or alike; `layer` as model/encoder_layers.py reads it.

        One layer's output is what the next layer is given; the last comes with the norm that stands after it, where
        there is one (stable layer norm). A mean is over the outputs themselves, the last one too without that norm. It
        is added up in float32, then cast to the encoder's dtype.
        """
        super().__init__()
        self.source = ""
        """The folder or id that it was loaded from, where it was."""
        self.dtype_note = ""
        """Why it is computed in another dtype than was asked for, in one line; empty where it is not."""
        self.layers = read_layers(layer, model.config.num_hidden_layers)
        self.model = model
        self.dim: int = model.config.hidden_size
        self.layer: int | str = self.layers.name
        self.sample_rate = sample_rate
        self.do_normalize = do_normalize
        self.weights = weights
        self.packs: bool = model.config.model_type not in OWN_ATTENTION and switch_to_packed(model) is None
        """Whether the transformer can read the utterances of a batch at once."""
        self.packed: bool = self.packs and next(model.encoder.parameters()).device.type == "cuda"
        """Whether it does: where the transformer's weights are on a GPU (transformers' `device` is that of the first
        weight, which no layer reads). On a CPU it is no faster, and one by one an utterance has the same bits in any
        batch."""
        if self.layers.averaged or self.layers.last < model.config.num_hidden_layers:
            self._drop_what_stands_above()
        self._sum = _SumOfOutputs(self.model.encoder.layers[self.layers.first - 1 :]) if self.layers.averaged else None

    def _drop_what_stands_above(self) -> None:
        """Layers that are not read are not computed; a stable-layer-norm stack norms only after its own last layer."""
        self.model.encoder.layers = self.model.encoder.layers[: self.layers.last]
        if getattr(self.model.config, "do_stable_layer_norm", False):
            self.model.encoder.layer_norm = nn.Identity()

    def out_len(self, num_samples: Length) -> Length:
        """Frames of an utterance of `num_samples`; none or below for one that `forward` cannot take (under 25 ms).

        The convolutions' own arithmetic, floor((n - kernel) / stride) + 1.
        """
        length = num_samples
        for kernel, stride in zip(self.model.config.conv_kernel, self.model.config.conv_stride, strict=True):
            length = (length - kernel) // stride + 1
        return length

    @torch.no_grad()
    def forward(self, audio: Tensor, audio_cu: Tensor) -> tuple[Tensor, Tensor]:
        """audio [sum N] with audio_cu [B + 1] -> frames [sum T, D] in the encoder's dtype, with frame_cu [B + 1]."""
        waves = [self._prepared(wave) for wave in audio.split(audio_cu.diff().tolist())]
        frame_cu = cumulative(self.out_len(audio_cu.diff()))
        if self.packed:
            return self._encode_packed(waves, frame_cu.diff()), frame_cu
        with torch.random.fork_rng(devices=[]):  # transformers draws for layer drop even where none is: the adapter's
            # dropout must be the same whether frames are computed or cached
            return torch.cat([self._read(self.model(wave).last_hidden_state)[0] for wave in waves]), frame_cu

    def _read(self, last: Tensor) -> Tensor:
        """What is read of the pass that just ended with `last`: that, or the mean over the layers."""
        return last if self._sum is None else self._sum.mean().to(last.dtype)

    def _prepared(self, wave: Tensor) -> Tensor:  # [N] -> [1, N]
        wave = normalise(wave) if self.do_normalize else wave
        return wave.to(self.model.dtype)[None]

    def _encode_packed(self, waves: list[Tensor], lengths: Tensor) -> Tensor:
        """B waves [1, N], lengths [B] in frames -> [sum T, D].

        The forward of transformers' HubertModel, with each utterance's convolutions at its own length.
        """
        body, stable_norm = self.model.encoder, getattr(self.model.config, "do_stable_layer_norm", False)
        heard = torch.cat([self.model.feature_extractor(wave)[0].T for wave in waves])  # [sum T, C]
        projected = self.model.feature_projection(heard)
        frames = projected[0] if isinstance(projected, tuple) else projected  # [sum T, D]
        placed = [body.pos_conv_embed(utterance[None])[0] for utterance in frames.split(lengths.tolist())]
        hidden = (frames + torch.cat(placed))[None]
        hidden = hidden if stable_norm else body.layer_norm(hidden)
        packing = packing_of(lengths, hidden.device)
        for layer in body.layers:
            hidden = layer(hidden, packing=packing)
        return self._read(body.layer_norm(hidden) if stable_norm else hidden)[0]

    def fingerprint(self) -> dict[str, Any]:
        """All that decides the frames of a waveform: cached features of another fingerprint are refused."""
        return {
            "family": self.model.config.model_type,
            "weights": self.weights,
            "layer": self.layer,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "normalise": self.do_normalize,
            "sample_rate": self.sample_rate,
            "dim": self.dim,
        }


class _SumOfOutputs:
    """Adds up, in float32, what some layers put out in one pass; each thread has a sum of its own."""

    def __init__(self, layers: Any) -> None:
        self._count = len(layers)
        self._thread = local()
        layers[0].register_forward_hook(self._begin)
        for layer in layers[1:]:
            layer.register_forward_hook(self._add)

    def mean(self) -> Tensor:
        """Over the layers of this thread's last pass, [1, T, D]."""
        total = self._thread.total
        del self._thread.total
        return total / self._count

    def _begin(self, layer: nn.Module, given: Any, output: Any) -> None:
        self._thread.total = _hidden(output).to(torch.float32, copy=True)

    def _add(self, layer: nn.Module, given: Any, output: Any) -> None:
        self._thread.total += _hidden(output)


def _hidden(output: Any) -> Tensor:
    """A layer gives its frames alone, or first in a tuple."""
    return output[0] if isinstance(output, tuple) else output
