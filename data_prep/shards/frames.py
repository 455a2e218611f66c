"""Encoder frames as they lie in a feature shard, T of them of D numbers each, little-endian, in `<key>.<extension>`:

    .f32 .f16 .bf16    [T, D], raw
    .i8                [T, D + 2] bytes: each frame's scale in front of its int8 numbers (model/batch.py)

A row is a frame, so a batch's frames lie end to end in one array as they are read. Torch is imported in the
functions that need it, so that `prep check` starts without it."""

from typing import TYPE_CHECKING, Any

import numpy as np

from model.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

EXTENSIONS = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "int8": "i8"}
FEATURE_DTYPES = tuple(EXTENSIONS)
_ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "int8": 1}
_SCALE_BYTES = {"int8": 2}
# Bits that are all set in NaN and Inf, and in no other number; of int8, those of the scale.
_EXPONENT = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000, "int8": 0x7C00}


def bytes_per_frame(dim: int, dtype: str) -> int:
    """Bytes of one frame of `dim` numbers stored as `dtype`, one of FEATURE_DTYPES."""
    return dim * _ITEM_BYTES[dtype] + _SCALE_BYTES.get(dtype, 0)


def count_not_finite(media: bytes | bytearray, dtype: str, dim: int) -> int:
    """How many numbers in the frames [T, D] of a shard are NaN or Inf; of int8, how many scales."""
    rows = np.frombuffer(media, np.uint8).reshape(-1, bytes_per_frame(dim, dtype))
    rows = np.ascontiguousarray(rows[:, : _SCALE_BYTES.get(dtype)])
    bits, mask = rows.view("<u4" if dtype == "float32" else "<u2"), _EXPONENT[dtype]
    return int(np.count_nonzero((bits & mask) == mask))


def as_frames(fingerprint: dict[str, Any], data: np.ndarray) -> "Tensor":
    """uint8 [bytes] to [T, D] in the stored dtype, the same memory; of int8 to uint8 [T, D + 2], as Batch takes it."""
    import torch

    dtype, dim = fingerprint["feature_dtype"], int(fingerprint["dim"])
    if dtype == "int8":
        return torch.from_numpy(data).view(-1, bytes_per_frame(dim, dtype))
    return torch.from_numpy(data).view(getattr(torch, dtype)).view(-1, dim)


def as_numbers(frames: "Tensor") -> "Tensor":
    """The result of `as_frames` as float32 [T, D]."""
    import torch

    from model.batch import dequantise

    return dequantise(frames) if frames.dtype == torch.uint8 else frames.float()


def to_bytes(frames: "Tensor", dtype: str, key: str) -> bytes:
    """frames [T, D] of utterance `key` as they are stored. UserError for NaN, Inf and what `dtype` cannot hold."""
    import torch

    from model.batch import LARGEST, quantise

    if not torch.isfinite(frames).all():
        problem = f"the encoder gives frames not finite (NaN, Inf) in {str(frames.dtype).removeprefix('torch.')}"
        raise UserError(f"utterance {key}: {problem}; compute with --dtype float32, and listen to it")
    peak, of_torch = float(frames.abs().max()), getattr(torch, dtype)
    if peak > (LARGEST if dtype == "int8" else torch.finfo(of_torch).max):
        raise UserError(
            f"utterance {key}: frames reach {peak:g}, more than {dtype} holds; use --feature-dtype bfloat16"
        )
    stored = quantise(frames) if dtype == "int8" else frames.to(of_torch).contiguous().view(torch.uint8)
    return stored.cpu().numpy().tobytes()
