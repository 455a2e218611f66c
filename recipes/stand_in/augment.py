"""Augments clean speech: speed, equaliser, room, telephone, noise.

All of it is a product or a sum in the frequency domain, so one FFT there and one back do everything, several hundred
times faster than real time. Numpy only.
"""

import numpy as np

from model.sample_rate import SAMPLE_RATE

_GRID = 800  # samples; lengths are rounded up to a multiple, which keeps the FFT fast
_ROOM_SECONDS = 0.4


def augment(wave: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> tuple[np.ndarray, float]:
    """A changed copy of `wave` [samples] at 16 kHz, and its speed: what was at second t is now at t / speed.

    `strength` scales how much and how often: 1 is a bad telephone in a bathroom, 0 changes nothing.
    """
    if strength == 0:
        return wave, 1.0
    long = _round_up(len(wave) + int(_ROOM_SECONDS * SAMPLE_RATE))
    long_out = _round_up(long / np.exp(strength * rng.uniform(-0.2, 0.2)))
    speed = long / long_out
    bins = min(long, long_out) // 2 + 1
    frequencies = np.linspace(0, 1, bins) * min(1.0, speed) * SAMPLE_RATE / 2  # Hz as heard after the change of speed
    spectrum = np.fft.rfft(wave, long)[:bins] / speed
    spectrum *= _equaliser(frequencies, rng, strength)
    if rng.random() < 0.5 * strength:
        spectrum *= _room(long_out, rng, strength)[:bins]
    if rng.random() < 0.4 * strength:
        spectrum /= np.sqrt(1 + (frequencies / rng.uniform(2500, 7000)) ** 12)  # a steep low-pass
    changed = np.fft.irfft(spectrum, long_out)[: int(len(wave) / speed)]
    return _with_noise(changed, rng, strength).astype(np.float32), speed


def _round_up(samples: float) -> int:
    return int(-(-samples // _GRID)) * _GRID


def _equaliser(frequencies: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """A smooth random gain of up to 10 dB up or down at each of nine frequencies."""
    knots = np.array([0, 150, 300, 600, 1200, 2400, 3600, 5400, 8000])
    return 10 ** (np.interp(frequencies, knots, strength * rng.uniform(-10, 10, len(knots))) / 20)


def _room(samples: int, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Spectrum of a room: the direct sound, then noise that dies away."""
    tail = np.arange(int(_ROOM_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    response = rng.standard_normal(len(tail)) * np.exp(-tail / rng.uniform(0.01, 0.08))
    response *= strength * rng.uniform(0.1, 0.8) / np.sqrt(np.sum(response**2))
    response[0] += 1.0
    return np.fft.rfft(response, samples)


def _with_noise(wave: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Add noise between white and deep, 5 to 45 dB below the speech at full strength, never above 25 dB at little."""
    below_db = rng.uniform(5 + 20 * (1 - strength), 45)
    noise = rng.standard_normal(len(wave))
    memory = rng.uniform(0, 0.9)
    for _ in range(2):  # a short moving mix with the past: more memory, deeper noise
        noise[1:] += memory * noise[:-1]
    scale = np.sqrt(np.mean(wave**2) / max(np.mean(noise**2), 1e-12)) * 10 ** (-below_db / 20)
    return wave + scale * noise
