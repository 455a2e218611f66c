"""What is measured of a wave: levels, silence, clipping and a hash."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_prep.audio.decode import SAMPLE_RATE
from data_prep.inspect.audit.text import hash_of

FRAME = 400  # samples: 25 ms, a few periods of the deepest voice
LOUD, QUIET = 95, 5  # percentiles of the frames' levels: how loud the speech is, and what lies beneath it
SILENCE_BELOW_LOUD_DB = 40.0  # vowels and fricatives lie within it, pauses in a quiet room beyond
SILENCE_DBFS = -70.0  # whatever the speech: a few steps of 16 bit
FLOOR = 1e-10  # power: -100 dBFS, below the 16-bit step


def measure_wave(wave: np.ndarray) -> dict[str, Any]:
    """Columns of ROW (measures.py) that float32 [N] gives; levels in dBFS of a frame's mean power."""
    mean = wave.mean()
    steps = np.clip(np.rint(wave * np.float32(32768)), -32768, 32767).astype(np.int16)
    level = frame_levels(wave - mean)
    quiet, loud = np.percentile(level, (QUIET, LOUD))
    silent = level < max(loud - SILENCE_BELOW_LOUD_DB, SILENCE_DBFS)
    heard = np.flatnonzero(~silent)
    first, last = (int(heard[0]), int(heard[-1]) + 1) if len(heard) else (len(level), len(level))
    return {
        "audio_hash": hash_of(steps.data),
        "clipped": clipped_share(steps),
        "dc": abs(float(mean)),
        "level": loud,
        "range": loud - quiet,
        "silence": silent.mean(),
        "leading": first * FRAME / SAMPLE_RATE,
        "trailing": (len(level) - last) * FRAME / SAMPLE_RATE,
    }


def frame_levels(wave: np.ndarray) -> np.ndarray:
    """dBFS [N // FRAME] of frames of 25 ms, without overlap; of a wave shorter than one, its own."""
    frames = wave[: len(wave) // FRAME * FRAME].reshape(-1, FRAME) if len(wave) >= FRAME else wave[None]
    power = np.einsum("ij,ij->i", frames, frames) / frames.shape[1]
    return 10 * np.log10(np.maximum(power, FLOOR))


def clipped_share(steps: np.ndarray) -> float:
    """Of int16 [N], the part at full scale."""
    if steps.max() < 32767 and steps.min() > -32768:
        return 0.0
    return float(np.count_nonzero((steps >= 32767) | (steps == -32768)) / len(steps))
