"""SALMONN's window-level Q-Former (arXiv 2310.13289, section 3.1): trained queries attend to each window of frames.

The Q-Former is transformers' implementation of BLIP-2's (arXiv 2301.12597)."""

import torch
from torch import Tensor, nn

from model.adapters.contract import Adapter, AdapterSpec
from model.batch import Length

QUERY_STD = 0.02  # as in SALMONN and BLIP-2


class QFormerAdapter(Adapter):
    """LayerNorm(D) - `layers` Q-Former layers of width `hidden` and inner width 4 hidden, in which `queries` queries
    attend to each other and to the k frames of a window - Linear(hidden, H). Dropout as in the Q-Former: on attention
    weights, and on the output of every sublayer.

    All windows have k frames, so there is no padding, and windows are independent of each other."""

    has = ("layers", "heads", "queries")

    def __init__(self, spec: AdapterSpec) -> None:
        from transformers import Blip2QFormerConfig, Blip2QFormerModel

        super().__init__(spec)
        config = Blip2QFormerConfig(
            hidden_size=spec.hidden,
            intermediate_size=4 * spec.hidden,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            encoder_hidden_size=spec.encoder_dim,
            cross_attention_frequency=1,
            hidden_dropout_prob=spec.dropout,
            attention_probs_dropout_prob=spec.dropout,
        )
        config._attn_implementation = "eager"  # over a few frames only; deterministic on a GPU too
        self.norm = nn.LayerNorm(spec.encoder_dim)
        self.queries = nn.Parameter(QUERY_STD * torch.randn(spec.queries, spec.hidden))
        self.qformer = Blip2QFormerModel(config)
        self.linear = nn.Linear(spec.hidden, spec.llm_dim)

    def out_len(self, num_frames: Length) -> Length:
        return num_frames // self.spec.stack * self.spec.queries

    def embed(self, stacks: Tensor, lengths: Tensor) -> Tensor:
        queries = self.queries.expand(len(stacks), -1, -1)
        hidden = self.qformer(query_embeds=queries, encoder_hidden_states=self.norm(stacks)).last_hidden_state
        return self.linear(hidden).flatten(0, 1)  # [sum W, queries, H] -> [sum S, H]
