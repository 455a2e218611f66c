"""A strided convolution, then two linear layers: SLAM-LLM's `cov1d-linear` (EncoderProjectorCov1d in
src/slam_llm/models/projector.py of github.com/X-LANCE/SLAM-LLM)."""

import torch
from torch import Tensor, nn

from model.adapters.contract import Adapter, AdapterSpec


class Conv1dAdapter(Adapter):
    """Conv1d(D, D, kernel and stride k) - ReLU - Linear(D, hidden) - ReLU - Linear(hidden, H); dropout on the hidden
    layer.

    The windows of this convolution do not overlap, so it is computed as a linear layer over a stack: cuDNN's
    convolutions would round to TF32. `conv.weight[:, i * D + j]` is nn.Conv1d's `weight[:, j, i]`, with the same
    initialisation."""

    def __init__(self, spec: AdapterSpec) -> None:
        super().__init__(spec)
        self.conv = nn.Linear(spec.stack * spec.encoder_dim, spec.encoder_dim)
        self.linear1 = nn.Linear(spec.encoder_dim, spec.hidden)
        self.linear2 = nn.Linear(spec.hidden, spec.llm_dim)
        self.dropout = nn.Dropout(spec.dropout)

    def embed(self, stacks: Tensor, lengths: Tensor) -> Tensor:
        convolved = torch.relu(self.conv(stacks.flatten(1)))
        return self.linear2(self.dropout(torch.relu(self.linear1(convolved))))
