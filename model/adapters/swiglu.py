"""Ultravox's projector since v0.5: stack, RMSNorm, SwiGLU between two linear layers, with a norm in the middle
(UltravoxProjector with projector_ln_mid in ultravox/model/ultravox_model.py of github.com/fixie-ai/ultravox)."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from model.adapters.contract import Adapter, AdapterSpec
from model.errors import UserError

NORM_INIT = 0.4  # norm_init of ultravox_config.py, after arXiv 2206.10139: small initial weights train better
EPS = 1e-6


class SwiGluAdapter(Adapter):
    """RMSNorm(k D) - Linear(k D, hidden) - SwiGLU, which halves the width - RMSNorm(hidden / 2) - Linear(hidden / 2,
    H), both linear layers without bias; dropout before the last. Ultravox pads the last stack with zeros; here up to
    k - 1 frames at the end are dropped."""

    def __init__(self, spec: AdapterSpec) -> None:
        super().__init__(spec)
        self.ln_pre = _norm(spec.stack * spec.encoder_dim)
        self.linear_1 = nn.Linear(spec.stack * spec.encoder_dim, spec.hidden, bias=False)
        self.ln_mid = _norm(spec.hidden // 2)
        self.linear_2 = nn.Linear(spec.hidden // 2, spec.llm_dim, bias=False)
        self.dropout = nn.Dropout(spec.dropout)

    @classmethod
    def require_buildable(cls, settings: Mapping[str, Any]) -> None:
        super().require_buildable(settings)
        if settings["hidden"] % 2:
            raise UserError(f"model.adapter.hidden is {settings['hidden']}, swiglu halves it; give an even number")

    def embed(self, stacks: Tensor, lengths: Tensor) -> Tensor:
        values, gate = self.linear_1(self.ln_pre(stacks.flatten(1))).chunk(2, dim=-1)
        return self.linear_2(self.dropout(self.ln_mid(F.silu(gate) * values)))


def _norm(width: int) -> nn.RMSNorm:
    norm = nn.RMSNorm(width, eps=EPS)
    nn.init.constant_(norm.weight, NORM_INIT)
    return norm
