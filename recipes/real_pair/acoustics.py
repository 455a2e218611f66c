"""How a recording sounds: its volume, the noise in it and the room around it. Waves are float [N], 16 kHz mono."""

import random

import numpy as np

from data_prep.audio.decode import SAMPLE_RATE

ROOM_SHARE, NOISE_SHARE = 0.6, 0.7  # of the recordings of `recorded`
REVERBERATION = (0.1, 0.6)  # seconds until the sound is 60 dB weaker
DIRECT_DB = (0.0, 15.0)  # the direct sound over all that the walls send back
NOISE_DB = (10.0, 35.0)  # speech over noise
TILT_DB = (-6.0, 6.0)  # the microphone's gain at 8 kHz, from 0 at 0 Hz


def recorded(wave: np.ndarray, rng: random.Random) -> np.ndarray:
    """The wave in a room of its own, with noise of a colour of its own, by a microphone, at some volume."""
    if rng.random() < ROOM_SHARE:
        wave = in_a_room(wave, rng.uniform(*REVERBERATION), rng.uniform(*DIRECT_DB), numpy_rng(rng))
    if rng.random() < NOISE_SHARE:
        wave = with_noise(wave, rng.uniform(*NOISE_DB), rng.choice((0.0, 0.5, 1.0)), numpy_rng(rng))
    spectrum = np.fft.rfft(wave)
    tilt = 10 ** (np.linspace(0, rng.uniform(*TILT_DB), len(spectrum)) / 20)
    return at_volume(np.fft.irfft(spectrum * tilt, len(wave)), rng.uniform(0.3, 1.0))


def in_a_room(wave: np.ndarray, seconds: float, direct_db: float, rng: np.random.Generator) -> np.ndarray:
    """Convolved with an impulse and exponentially decaying noise (Moorer 1979), as long as before."""
    times = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(times)) * 10 ** (-3 * times / seconds)
    tail *= 10 ** (-direct_db / 20) / np.sqrt(np.square(tail).sum())
    tail[0] = 1.0
    size = len(wave) + len(tail) - 1
    return np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(tail, size), size)[: len(wave)]


def with_noise(wave: np.ndarray, snr_db: float, colour: float, rng: np.random.Generator) -> np.ndarray:
    """Plus noise whose power falls with frequency ** (2 * colour): white 0, brown 1."""
    spectrum = np.fft.rfft(rng.standard_normal(len(wave)))
    noise = np.fft.irfft(spectrum / (10 + np.arange(len(spectrum))) ** colour, len(wave))
    return wave + noise / noise.std() * wave.std() * 10 ** (-snr_db / 20)


def at_volume(wave: np.ndarray, peak: float) -> np.ndarray:
    """The wave with that peak; silence stays silence."""
    highest = float(np.abs(wave).max(initial=0))
    return wave * (peak / highest) if highest else wave


def numpy_rng(rng: random.Random) -> np.random.Generator:
    return np.random.default_rng(rng.getrandbits(64))
