"""Silence: recordings of nothing else, and where it ends at the two ends of an utterance, for `--trim-silence`."""

from __future__ import annotations

import numpy as np

from data_prep.audio.cuts import AudioError
from model.sample_rate import SAMPLE_RATE

FRAME = SAMPLE_RATE // 100  # samples, 10 ms: shorter than any speech sound, longer than a click
MARGIN = 15 * FRAME  # kept at each end: breath, the onset of a soft consonant


def refuse_silence(wave: np.ndarray) -> None:
    """Raises AudioError for a constant signal (to one 16-bit step): silence, or a recording of nothing but DC."""
    if np.ptp(wave) <= 2 / 32768:
        raise AudioError("silent", f"constant at {float(wave[0]):.4f} for {len(wave) / SAMPLE_RATE:.2f} s")


def sounding_part(wave: np.ndarray, decibels: float) -> tuple[int, int]:
    """First sample and the one after the last of what stays of float32 [N] without its silent ends.

    Silent is a frame of 10 ms whose level (RMS) is more than `decibels` below that of the loudest; 0.15 s of it stay.
    """
    starts = np.arange(0, len(wave), FRAME)
    power = np.add.reduceat(np.square(wave), starts, dtype=np.float64) / np.diff(starts, append=len(wave))
    sounding = np.flatnonzero(power >= power.max() * 10 ** (-decibels / 10))
    return max(0, int(sounding[0]) * FRAME - MARGIN), min(len(wave), (int(sounding[-1]) + 1) * FRAME + MARGIN)
