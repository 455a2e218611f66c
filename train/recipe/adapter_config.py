"""The recipe's section `model.adapter`."""

from typing import Self

from pydantic import model_validator

from model.adapters import require_buildable
from train.recipe.kinds import Count, Section, Share, Text


class AdapterConfig(Section):
    """The one part that is trained."""

    type: Text = "concat"
    """Its kind, a key of ADAPTERS in model/adapters: concat (the paper's), conv1d, swiglu, qformer or transformer."""
    stack: Count = 5
    """Encoder frames that are concatenated into one speech embedding (5 x 20 ms = 100 ms)."""
    hidden: Count = 2048
    """Width of the hidden layer, or of all layers of qformer and transformer."""
    dropout: Share = 0.0
    """Share of hidden units dropped in training."""
    layers: Count = 2
    """Layers of qformer and transformer."""
    heads: Count = 8
    """Attention heads of qformer and transformer; they divide `hidden`."""
    queries: Count = 1
    """Speech embeddings that qformer makes of `stack` frames."""
    match_norm: bool = False
    """Whether each speech embedding is scaled to the root mean square of the LLM's own embeddings."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        require_buildable(self.model_dump())
        return self
