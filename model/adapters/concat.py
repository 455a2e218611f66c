"""The paper's adapter (SLAM-ASR, arXiv 2402.08846, section 3): stack k frames, then Linear - ReLU - Linear."""

import torch
from torch import Tensor, nn

from model.adapters.contract import Adapter, AdapterSpec


class ConcatAdapter(Adapter):
    """Parameters: k D x hidden, hidden x H, and biases."""

    def __init__(self, spec: AdapterSpec) -> None:
        super().__init__(spec)
        self.linear1 = nn.Linear(spec.stack * spec.encoder_dim, spec.hidden)
        self.linear2 = nn.Linear(spec.hidden, spec.llm_dim)
        self.dropout = nn.Dropout(spec.dropout)

    def embed(self, stacks: Tensor, lengths: Tensor) -> Tensor:
        return self.linear2(self.dropout(torch.relu(self.linear1(stacks.flatten(1)))))
