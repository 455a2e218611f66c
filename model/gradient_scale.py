"""Larger gradients inside a float16 LLM, true ones outside.

float16 ends at 6e-8 below, and gradients of a mean token loss lie there: they would vanish. So they are multiplied
where they enter the LLM and divided where they leave it (loss scaling, arXiv 1710.03740, section 3.2, kept to the part
that needs it). The loss, and the scale of the adapter's float32 gradients, are as without. A power of two is exact.
What overflows stays inf or nan, for whoever checks gradients to see.
"""

from typing import Any

import torch
from torch import Tensor


def scale_gradient(tensor: Tensor, factor: float) -> Tensor:
    """The same values, whose gradient is multiplied by `factor` on the way back."""
    if factor == 1.0:
        return tensor
    scaled = _ScaleGradient.apply(tensor, factor)
    assert isinstance(scaled, Tensor)
    return scaled


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient * ctx.factor, None
