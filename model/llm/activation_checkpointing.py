"""Activation checkpointing (Chen et al., arXiv 1604.06174): a layer's activations are recomputed in the backward
pass."""

from functools import partial
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from model.errors import UserError


def checkpoint_activations(model: Any) -> None:
    """Makes each transformer layer of an LLM keep only its input for the backward pass: the same loss and gradients in
    about a third more time. UserError for an LLM whose layers do not support it."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        family = model.config.model_type
        raise UserError(
            f"model.activation_checkpointing is true, but the layers of LLM family {family!r} do not support it; set "
            "it to false"
        )
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Any, hidden: Tensor, *rest: Any, **options: Any) -> Any:
    """Reentrant, so that the recomputation runs the layer's forward hooks, in which ZeRO-3 gathers its weights."""
    if not hidden.requires_grad:
        return forward(hidden, *rest, **options)
    return checkpoint(partial(forward, **options), hidden, *rest, use_reentrant=True)
