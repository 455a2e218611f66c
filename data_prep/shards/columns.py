"""The columns beside a shard: one value an utterance, lists in JSON, arrays in memory."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from data_prep.audio.cuts import MAX_SECONDS
from data_prep.utterance import KEY
from model.sample_rate import SAMPLE_RATE

BLOCK = 512  # bytes: what tar counts in
COLUMNS = {
    "offset": np.int64,  # of the media's first byte in the tar
    "length": np.int64,  # of the media, in bytes
    "crc32": np.uint32,  # of all bytes from the media's first to the metadata's last
    "meta_offset": np.int64,
    "meta_length": np.int64,
    "samples": np.int64,  # at 16 kHz
    "frames": np.int32,  # of the encoder; 0 in audio shards
    "characters": np.int32,  # of the transcript
    "text_bytes": np.int32,  # of the transcript in UTF-8
}

Count = TypeVar("Count", int, np.ndarray)


def padded(count: Count, to: int = BLOCK) -> Count:
    """Bytes (a number or an array) rounded up to whole blocks."""
    return -(-count // to) * to


def parse_columns(raw: dict[str, Any]) -> dict[str, Any] | None:
    """Lists to arrays of COLUMNS' types; None if a column is missing, of another length or of another type."""
    keys = raw.get("key")
    if set(raw) != {"key", *COLUMNS} or not isinstance(keys, list):
        return None
    if not all(isinstance(key, str) and KEY.fullmatch(key) for key in keys):
        return None
    columns: dict[str, Any] = {"key": keys}
    for name, kind in COLUMNS.items():
        values = raw[name]
        if not isinstance(values, list) or len(values) != len(keys) or set(map(type, values)) - {int}:
            return None
        limits = np.iinfo(kind)
        if values and not limits.min <= min(values) <= max(values) <= limits.max:
            return None
        columns[name] = np.array(values, dtype=kind)
    return columns


def in_bounds(columns: dict[str, Any], size: int, meta_size: int | None = None) -> bool:
    """Whether every member lies inside the tar of `size` bytes, and is of a length that an utterance can have.

    Media lie before their own metadata, with one header between them. For a tar indexed in place, metadata lie end to
    end in a file of `meta_size` bytes.
    """
    offset, length, meta_offset, meta_length = (columns[n] for n in ("offset", "length", "meta_offset", "meta_length"))
    if any((columns[name] < 0).any() for name in COLUMNS) or (offset > size).any() or (length > size - offset).any():
        return False
    samples, frames = columns["samples"], columns["frames"]
    if (samples > MAX_SECONDS * SAMPLE_RATE).any() or (frames > samples).any():
        return False
    aligned = (offset >= BLOCK) & (offset % BLOCK == 0) & (length > 0) & (meta_length > 0)
    if meta_size is None:
        meta_size = size
        aligned &= meta_offset == offset + padded(length) + BLOCK
    return bool((aligned & (meta_offset <= meta_size) & (meta_length <= meta_size - meta_offset)).all())
