"""Larger gradients inside a float16 LLM, true ones outside.

float16 ends at 6e-8, where gradients of a mean token loss would vanish. So they are multiplied where they enter the
LLM and divided where they leave it (loss scaling, arXiv 1710.03740, section 3.2, of the LLM alone). Loss and adapter
gradients keep their scale; a power of two is exact. What overflows stays inf or nan, for whoever checks gradients.
"""

from typing import Any

import torch
from torch import Tensor


def scale_gradient(tensor: Tensor, factor: float) -> Tensor:
    """The same values, whose gradient is multiplied by `factor`."""
    return tensor if factor == 1.0 else _ScaleGradient.apply(tensor, factor)  # pyright: ignore[reportReturnType]


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient * ctx.factor, None
