"""The trained part: encoder frames to LLM embeddings (SLAM-ASR, arXiv 2402.08846, section 3).

T encoder frames, D encoder width, k frames stacked, S speech embeddings, H LLM width."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.batch import Length, cumulative
from model.errors import UserError


@dataclass(frozen=True)
class AdapterSpec:
    """What rebuilds an adapter: stored in adapter.json beside its weights."""

    type: str
    stack: int
    hidden: int
    dropout: float
    encoder_dim: int
    llm_dim: int


class ConcatAdapter(nn.Module):
    """Stack k frames, then Linear - ReLU - Linear. A rest of fewer than k frames is left out, as in the paper."""

    def __init__(self, spec: AdapterSpec) -> None:
        super().__init__()
        self.spec = spec
        self.linear1 = nn.Linear(spec.stack * spec.encoder_dim, spec.hidden)
        self.linear2 = nn.Linear(spec.hidden, spec.llm_dim)
        self.dropout = nn.Dropout(spec.dropout)

    def out_len(self, num_frames: Length) -> Length:
        """Speech embeddings of so many encoder frames."""
        return num_frames // self.spec.stack

    def forward(self, frames: Tensor, frame_cu: Tensor) -> tuple[Tensor, Tensor]:
        """frames [sum T, D], frame_cu [B + 1] -> embeddings [sum S, H] float32, speech_cu [B + 1]."""
        lengths = frame_cu.diff()
        whole = [part[: len(part) - len(part) % self.spec.stack] for part in frames.split(lengths.tolist())]
        stacked = torch.cat(whole).reshape(-1, self.spec.stack * self.spec.encoder_dim)  # [sum S, k D]
        hidden = torch.relu(self.linear1(stacked.to(self.linear1.weight.dtype)))
        return self.linear2(self.dropout(hidden)), cumulative(self.out_len(lengths))


ADAPTERS = {"concat": ConcatAdapter}


def build_adapter(spec: AdapterSpec) -> ConcatAdapter:
    """A freshly initialised adapter in float32; seed torch first. UserError for an unknown type."""
    if spec.type not in ADAPTERS:
        raise UserError(f"unknown adapter type {spec.type!r}; known: {', '.join(ADAPTERS)}")
    return ADAPTERS[spec.type](spec)
