"""Activation checkpointing (Chen et al., arXiv 1604.06174): the backward pass computes a layer's activations again."""

from functools import partial
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from model.errors import UserError


def checkpoint_activations(model: Any) -> None:
    """Makes each transformer layer of an LLM keep its input alone for the backward pass: the same loss and gradients in
    about a third more time. UserError for an LLM whose layers are not transformers' own."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        family = model.config.model_type
        raise UserError(
            f"model.activation_checkpointing is true, and an LLM of family {family!r} has no layers that can do it; "
            "set it to false"
        )
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Any, hidden: Tensor, *rest: Any, **options: Any) -> Any:
    """Reentrant, as ZeRO-3 gathers a layer's weights in its forward pass, which then runs in the backward pass too."""
    if not hidden.requires_grad:
        return forward(hidden, *rest, **options)
    return checkpoint(partial(forward, **options), hidden, *rest, use_reentrant=True)
