"""Encoder frames as they lie in a feature shard, T of them of D numbers each, little-endian, in `<key>.<extension>`:

    .f32 .f16 .bf16    [T, D], raw
    .i8                [T, D + 2] bytes: each frame's scale in front of its int8 numbers (model/int8_frames.py)

A row is a frame, so a batch's frames lie end to end in one array as they are read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.shards.frame_bytes import EXTENSIONS, bytes_per_frame
from model.errors import UserError
from model.int8_frames import LARGEST, SCALE_BYTES, dequantise, quantise

__all__ = ["EXTENSIONS", "FEATURE_DTYPES", "as_frames", "as_numbers", "bytes_per_frame", "row_bytes", "to_bytes"]

FEATURE_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "int8": torch.int8}


def row_bytes(fingerprint: dict[str, Any]) -> int:
    """Bytes of one frame of a feature index with this fingerprint."""
    return bytes_per_frame(int(fingerprint["dim"]), fingerprint["feature_dtype"])


def as_frames(fingerprint: dict[str, Any], data: np.ndarray) -> Tensor:
    """uint8 [bytes] to [T, D] in the cache's dtype, the same memory; of int8 to uint8 [T, D + 2], as Batch takes it."""
    dtype, dim = fingerprint["feature_dtype"], int(fingerprint["dim"])
    if dtype == "int8":
        return torch.from_numpy(data).view(-1, dim + SCALE_BYTES)
    return torch.from_numpy(data).view(FEATURE_DTYPES[dtype]).view(-1, dim)


def as_numbers(frames: Tensor) -> Tensor:
    """What `as_frames` gives, as float32 [T, D]."""
    return dequantise(frames) if frames.dtype == torch.uint8 else frames.float()


def to_bytes(frames: Tensor, dtype: str, key: str) -> bytes:
    """frames [T, D] of utterance `key` as they are kept.

    UserError where they are more than `dtype` holds, or no numbers at all.
    """
    peak = float(frames.abs().max())
    limit = LARGEST if dtype == "int8" else torch.finfo(FEATURE_DTYPES[dtype]).max
    if not torch.isfinite(frames).all():
        raise UserError(
            f"utterance {key}: the encoder gives frames that are not finite (NaN or Inf) in {_name(frames.dtype)}; "
            "compute with --dtype float32, and listen to it"
        )
    if peak > limit:
        raise UserError(
            f"utterance {key}: frames reach {peak:g}, more than {dtype} holds; use --feature-dtype bfloat16"
        )
    kept = quantise(frames) if dtype == "int8" else frames.to(FEATURE_DTYPES[dtype]).contiguous().view(torch.uint8)
    return kept.cpu().numpy().tobytes()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
