"""Frames in eight bits: rows of D + 2 bytes, uint8 [T, D + 2].

A row is the scale of its frame (float16, little-endian), then D int8 numbers q: the frame is scale * q. The scale is
the frame's largest magnitude over 127, so the rounding is at most half a scale. A frame under 4e-6 throughout is kept
as zeros, as its scale is none in float16.
"""

import torch
from torch import Tensor

SCALE_BYTES = 2
STEPS = 127
LARGEST = STEPS * torch.finfo(torch.float16).max
"""The largest magnitude that a frame may hold: 8.3 million."""


def quantise(frames: Tensor) -> Tensor:
    """frames [T, D], within LARGEST -> uint8 [T, D + 2], on the same device."""
    frames = frames.float()
    scale = (frames.abs().amax(1, keepdim=True) / STEPS).half()  # [T, 1]
    whole = (frames / scale.float().where(scale > 0, torch.inf)).round_().clamp_(-STEPS, STEPS).to(torch.int8)
    return torch.cat([scale.view(torch.uint8), whole.view(torch.uint8)], 1)


def dequantise(rows: Tensor) -> Tensor:
    """uint8 [T, D + 2] -> float32 [T, D], on the same device."""
    scale = rows[:, :SCALE_BYTES].contiguous().view(torch.float16)
    return rows[:, SCALE_BYTES:].view(torch.int8).float() * scale.float()
