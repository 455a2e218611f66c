"""Frames in eight bits: rows of D + 2 bytes, uint8 [T, D + 2].

A row is the scale of its frame (float16, little-endian), then D int8 numbers q: the frame is scale * q. The scale is
the frame's largest magnitude over 127, rounded up to a float16, so that the rounding is at most half a scale.
"""

import torch
from torch import Tensor

SCALE_BYTES = 2
STEPS = 127
LARGEST = STEPS * torch.finfo(torch.float16).max
"""Of a frame's values: 8.3 million."""


def quantise(frames: Tensor) -> Tensor:
    """frames [T, D], within LARGEST -> uint8 [T, D + 2], on the same device."""
    frames = frames.float()
    peak = frames.abs().amax(1, keepdim=True)  # [T, 1]
    scale = (peak / STEPS).half()
    rounded_down = (scale.float() * STEPS < peak).to(torch.int16)
    scale = (scale.view(torch.int16) + rounded_down).view(torch.float16)  # the next float16 above
    whole = (frames / scale.float().where(scale > 0, torch.inf)).round_().clamp_(-STEPS, STEPS).to(torch.int8)
    return torch.cat([scale.view(torch.uint8), whole.view(torch.uint8)], 1)


def dequantise(rows: Tensor) -> Tensor:
    """uint8 [T, D + 2] -> float32 [T, D], on the same device."""
    scale = rows[:, :SCALE_BYTES].contiguous().view(torch.float16)
    return rows[:, SCALE_BYTES:].view(torch.int8).float() * scale.float()
