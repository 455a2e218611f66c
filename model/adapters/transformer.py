"""A small transformer over stacked frames, so that a speech embedding may depend on its whole utterance."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.adapters.contract import Adapter, AdapterSpec
from model.packing import PackedLengths, packed_attention, packed_lengths

LONGEST_WAVE = 10_000  # base of the sinusoidal positions, as in arXiv 1706.03762, section 3.5


class TransformerAdapter(Adapter):
    """Linear(k D, hidden) - sinusoidal positions - `layers` pre-norm blocks (arXiv 2002.04745), which attend within an
    utterance - LayerNorm - Linear(hidden, H); dropout after the positions and on the output of every sublayer."""

    has = ("layers", "heads")

    def __init__(self, spec: AdapterSpec) -> None:
        super().__init__(spec)
        self.linear1 = nn.Linear(spec.stack * spec.encoder_dim, spec.hidden)
        self.blocks = nn.ModuleList(Block(spec.hidden, spec.heads, spec.dropout) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(spec.hidden)
        self.linear2 = nn.Linear(spec.hidden, spec.llm_dim)
        self.dropout = nn.Dropout(spec.dropout)

    def embed(self, stacks: Tensor, lengths: Tensor) -> Tensor:
        hidden = self.linear1(stacks.flatten(1))  # [sum S, hidden]
        table = sinusoids(int(lengths.max()), self.spec.hidden, hidden.device)
        hidden = self.dropout(hidden + torch.cat([table[:length] for length in lengths.tolist()]))
        packing = packed_lengths(lengths, hidden.device)
        for block in self.blocks:
            hidden = block(hidden, packing)
        return self.linear2(self.norm(hidden))


class Block(nn.Module):
    """Self-attention and a feed-forward layer of inner width 4 x width, both pre-norm with a residual connection."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, packing: PackedLengths) -> Tensor:
        """hidden [sum S, width] of utterances end to end -> the same shape."""
        heads = self.qkv(self.norm1(hidden)).unflatten(1, (3, self.heads, -1))
        query, key, value = heads.permute(1, 2, 0, 3)[:, None]  # each [1, h, sum S, d]
        attended, _ = packed_attention(self, query, key, value, None, packing, is_causal=False)
        hidden = hidden + self.dropout(self.out(attended[0].flatten(1)))
        return hidden + self.dropout(self.down(F.gelu(self.up(self.norm2(hidden)))))


def sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """float32 [length, width]: sines in the first half, cosines of the same frequencies in the second."""
    waves = torch.arange((width + 1) // 2, device=device) * (-2 * math.log(LONGEST_WAVE) / width)
    angles = torch.arange(length, device=device)[:, None] * waves.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]
