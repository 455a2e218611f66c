"""The interface of every adapter, and the spec that rebuilds one.

T encoder frames, D encoder width, n encoder layers in a frame, k frames stacked, W whole stacks, S speech embeddings,
H LLM width."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.batch import Length, cumulative
from model.errors import UserError, require_at_least

OF_SOME = ("layers", "heads", "queries")  # settings that only some types have


@dataclass(frozen=True)
class AdapterSpec:
    """Everything that rebuilds an adapter: stored in adapter.json beside its weights. A field that is missing in the
    file of an earlier version has its default, which is what that version computed."""

    type: str
    stack: int
    hidden: int
    dropout: float
    encoder_dim: int  # D, of one layer
    llm_dim: int
    layers: int = 2
    heads: int = 8
    queries: int = 1
    weighted_layers: int = 1  # n, the encoder layers that are concatenated in a frame
    output_rms: float = 0.0  # root mean square that each embedding is scaled to; 0 = not scaled

    @property
    def frame_dim(self) -> int:
        """Width of a frame, n x D."""
        return self.weighted_layers * self.encoder_dim


class Adapter(nn.Module):
    """The trained part between encoder and LLM. Utterances lie end to end, and none depends on the others."""

    has: ClassVar[tuple[str, ...]] = ()
    """The settings in OF_SOME that this type has."""

    def __init__(self, spec: AdapterSpec) -> None:
        super().__init__()
        self.spec = spec
        if spec.weighted_layers > 1:
            self.layer_weights = nn.Parameter(torch.zeros(spec.weighted_layers))

    @classmethod
    def require_buildable(cls, settings: Mapping[str, Any]) -> None:
        """UserError if no adapter of this type can have these settings (AdapterSpec's fields, without the widths)."""
        for name in ("stack", "hidden", *OF_SOME):
            require_at_least(f"model.adapter.{name}", settings[name], 1)
        kind, hidden, heads = settings["type"], settings["hidden"], settings["heads"]
        for name in OF_SOME:
            if name not in cls.has and settings[name] != getattr(AdapterSpec, name):
                has_none = f"but an adapter of type {kind} has no {name}; leave it out"
                raise UserError(f"model.adapter.{name} is {settings[name]}, {has_none}")
        if "heads" in cls.has and hidden % heads:
            raise UserError(
                f"model.adapter.hidden {hidden} is not a multiple of model.adapter.heads {heads}; change one of them"
            )

    def out_len(self, num_frames: Length) -> Length:
        """Number of speech embeddings for `num_frames` encoder frames. Up to k - 1 frames at the end are dropped, as in
        the paper."""
        return num_frames // self.spec.stack

    def forward(self, frames: Tensor, frame_cu: Tensor) -> tuple[Tensor, Tensor]:
        """frames [sum T, n x D], frame_cu [B + 1] on the CPU -> embeddings [sum S, H] float32, speech_cu [B + 1]."""
        lengths = self.out_len(frame_cu.diff())
        stacks = self._stacks(self._mixed(frames), frame_cu)
        speech = self.embed(stacks, lengths) if len(stacks) else stacks.new_zeros(0, self.spec.llm_dim)
        if self.spec.output_rms:
            speech = self.spec.output_rms * F.rms_norm(speech, speech.shape[-1:], eps=1e-12)
        return speech, cumulative(lengths)

    def embed(self, stacks: Tensor, lengths: Tensor) -> Tensor:
        """stacks [sum W, k, D] float32, lengths [B] of S on the CPU -> embeddings [sum S, H] float32; sum W > 0."""
        raise NotImplementedError

    def _mixed(self, frames: Tensor) -> Tensor:  # [sum T, n x D] -> [sum T, D]
        """The weighted sum of layers: trained weights that add up to 1, initially equal (SUPERB, arXiv 2105.01051)."""
        if self.spec.weighted_layers == 1:
            return frames
        weights = self.layer_weights.softmax(0)
        layers = frames.to(weights.dtype).unflatten(1, (self.spec.weighted_layers, self.spec.encoder_dim))
        return torch.einsum("n,tnd->td", weights, layers)

    def _stacks(self, frames: Tensor, frame_cu: Tensor) -> Tensor:  # [sum T, D] -> [sum W, k, D] float32
        stack = self.spec.stack
        whole = [part[: len(part) - len(part) % stack] for part in frames.split(frame_cu.diff().tolist())]
        return torch.cat(whole).reshape(-1, stack, frames.shape[-1]).to(next(self.parameters()).dtype)
