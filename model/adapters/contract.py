"""What every adapter offers, and what rebuilds one.

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

OF_SOME = ("layers", "heads", "queries")  # settings that not every type has


@dataclass(frozen=True)
class AdapterSpec:
    """What rebuilds an adapter: stored in adapter.json beside its weights. A field that a file does not have is at its
    default, as in the versions that wrote it."""

    type: str
    stack: int
    hidden: int
    dropout: float
    encoder_dim: int  # D, of one layer
    llm_dim: int
    layers: int = 2
    heads: int = 8
    queries: int = 1
    weighted_layers: int = 1  # n, the encoder layers that a frame holds side by side
    output_rms: float = 0.0  # that each embedding is scaled to; 0 = not scaled

    @property
    def frame_dim(self) -> int:
        """Width of a frame, n x D."""
        return self.weighted_layers * self.encoder_dim


class Adapter(nn.Module):
    """The trained part between encoder and LLM. Utterances lie end to end, and none depends on its neighbours."""

    has: ClassVar[tuple[str, ...]] = ()
    """Those of OF_SOME that this type has."""

    def __init__(self, spec: AdapterSpec) -> None:
        super().__init__()
        self.spec = spec
        if spec.weighted_layers > 1:
            self.layer_weights = nn.Parameter(torch.zeros(spec.weighted_layers))

    @classmethod
    def require_buildable(cls, settings: Mapping[str, Any]) -> None:
        """UserError for settings (AdapterSpec's fields, without the widths) that no adapter of this type has."""
        for name in ("stack", "hidden", *OF_SOME):
            require_at_least(f"model.adapter.{name}", settings[name], 1)
        kind, hidden, heads = settings["type"], settings["hidden"], settings["heads"]
        for name in OF_SOME:
            if name not in cls.has and settings[name] != getattr(AdapterSpec, name):
                has_none = f"but an adapter of type {kind} has no {name}; leave it out"
                raise UserError(f"model.adapter.{name} is {settings[name]}, {has_none}")
        if "heads" in cls.has and hidden % heads:
            raise UserError(
                f"model.adapter.hidden {hidden} is not a multiple of model.adapter.heads {heads}; give another of them"
            )

    def out_len(self, num_frames: Length) -> Length:
        """Speech embeddings of so many encoder frames. A rest of fewer than k frames is left out, as in the paper."""
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
        """stacks [sum W, k, D] float32, lengths [B] of S on the CPU -> embeddings [sum S, H] float32; W is not 0."""
        raise NotImplementedError

    def _mixed(self, frames: Tensor) -> Tensor:  # [sum T, n x D] -> [sum T, D]
        """The layers' sum with trained weights that add up to 1, at first all the same (SUPERB, arXiv 2105.01051)."""
        if self.spec.weighted_layers == 1:
            return frames
        weights = self.layer_weights.softmax(0)
        layers = frames.to(weights.dtype).unflatten(1, (self.spec.weighted_layers, self.spec.encoder_dim))
        return torch.einsum("n,tnd->td", weights, layers)

    def _stacks(self, frames: Tensor, frame_cu: Tensor) -> Tensor:  # [sum T, D] -> [sum W, k, D] float32
        stack = self.spec.stack
        whole = [part[: len(part) - len(part) % stack] for part in frames.split(frame_cu.diff().tolist())]
        return torch.cat(whole).reshape(-1, stack, frames.shape[-1]).to(next(self.parameters()).dtype)
