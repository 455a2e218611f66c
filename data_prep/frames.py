"""Encoder frames as they lie in a feature shard: `<key>.f16` or `.bf16`, [T, D], raw, little-endian."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.errors import UserError

FEATURE_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
EXTENSIONS = {"float16": "f16", "bfloat16": "bf16"}


def row_bytes(fingerprint: dict[str, Any]) -> int:
    """Bytes of one frame of a feature index with this fingerprint."""
    return int(fingerprint["dim"]) * FEATURE_DTYPES[fingerprint["feature_dtype"]].itemsize


def as_frames(fingerprint: dict[str, Any], data: np.ndarray) -> Tensor:
    """uint8 [bytes] to [T, D] in the cache's dtype, the same memory."""
    return torch.from_numpy(data).view(FEATURE_DTYPES[fingerprint["feature_dtype"]]).view(-1, int(fingerprint["dim"]))


def to_bytes(frames: Tensor, dtype: str, key: str) -> bytes:
    """frames [T, D] of utterance `key` as they are kept. UserError where they are more than `dtype` holds."""
    kept = frames.to(FEATURE_DTYPES[dtype])
    if not torch.isfinite(kept).all():
        peak = float(frames.float().abs().max())
        raise UserError(
            f"utterance {key}: frames reach {peak:g}, more than {dtype} holds; use --feature-dtype bfloat16"
        )
    return kept.cpu().contiguous().view(torch.uint8).numpy().tobytes()
