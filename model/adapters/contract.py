"""What every adapter offers, and what rebuilds one.

T encoder frames, D encoder width, k frames stacked, S speech embeddings, H LLM width."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.batch import Length, cumulative


@dataclass(frozen=True)
class AdapterSpec:
    """What rebuilds an adapter: stored in adapter.json beside its weights."""

    type: str
    stack: int
    hidden: int
    dropout: float
    encoder_dim: int
    llm_dim: int


class Adapter(nn.Module):
    """The trained part between encoder and LLM. Utterances lie end to end, and none depends on its neighbours."""

    def __init__(self, spec: AdapterSpec) -> None:
        super().__init__()
        self.spec = spec

    def out_len(self, num_frames: Length) -> Length:
        """Speech embeddings of so many encoder frames. A rest of fewer than k frames is left out, as in the paper."""
        return num_frames // self.spec.stack

    def forward(self, frames: Tensor, frame_cu: Tensor) -> tuple[Tensor, Tensor]:
        """frames [sum T, D], frame_cu [B + 1] on the CPU -> embeddings [sum S, H] float32, speech_cu [B + 1]."""
        lengths = self.out_len(frame_cu.diff())
        return self.embed(self._stacks(frames, frame_cu), lengths), cumulative(lengths)

    def embed(self, stacks: Tensor, lengths: Tensor) -> Tensor:
        """stacks [sum S, k, D] float32, lengths [B] of S on the CPU -> embeddings [sum S, H] float32."""
        raise NotImplementedError

    def _stacks(self, frames: Tensor, frame_cu: Tensor) -> Tensor:  # [sum T, D] -> [sum S, k, D] float32
        stack = self.spec.stack
        whole = [part[: len(part) - len(part) % stack] for part in frames.split(frame_cu.diff().tolist())]
        return torch.cat(whole).reshape(-1, stack, frames.shape[-1]).to(next(self.parameters()).dtype)
