"""How many bytes encoder frames take in a shard, and whether they are numbers, without torch; frames.py says the rest.

T frames of D numbers each.
"""

from __future__ import annotations

import numpy as np

EXTENSIONS = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "int8": "i8"}
_ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "int8": 1}
_SCALE_BYTES = {"int8": 2}
_EXPONENT = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000, "int8": 0x7C00}
"""All its bits are set in NaN and Inf, and in no other number; of int8 it is the scale's."""


def bytes_per_frame(dim: int, dtype: str) -> int:
    """Bytes of one frame of `dim` numbers kept as `dtype`, a key of EXTENSIONS."""
    return dim * _ITEM_BYTES[dtype] + _SCALE_BYTES.get(dtype, 0)


def count_not_finite(media: bytes | bytearray, dtype: str, dim: int) -> int:
    """How many numbers in the frames [T, D] of a shard are NaN or Inf; of int8, how many scales."""
    rows = np.frombuffer(media, np.uint8).reshape(-1, bytes_per_frame(dim, dtype))
    rows = np.ascontiguousarray(rows[:, : _SCALE_BYTES.get(dtype)])
    bits, mask = rows.view("<u4" if dtype == "float32" else "<u2"), _EXPONENT[dtype]
    return int(np.count_nonzero((bits & mask) == mask))
