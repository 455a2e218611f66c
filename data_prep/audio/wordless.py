"""Sounds in which nothing is said: float32 [N] at 16 kHz within [-1, 1], drawn from a generator."""

from collections.abc import Callable

import numpy as np

from model.sample_rate import SAMPLE_RATE

LOWEST_NOISE_HERTZ = 20.0  # inaudible below, so it must not count in the level
TONE_HERTZ = (50.0, 6000.0)  # mains hum to a whistle
LEVEL_DBFS = (-80.0, -10.0)  # of the mean power: the noise of a good microphone to a loud room
PEAK = 0.99
NOTE_SECONDS = (0.15, 0.8)
A4_HERTZ, SEMITONES = 440.0, (-24, 25)  # of the notes, from A4
HARMONICS = 8
CLICKS_A_SECOND = (0.5, 10.0)
CLICK_SECONDS = (0.0005, 0.01)  # in which a click falls to a third


def silence(count: int, rng: np.random.Generator) -> np.ndarray:
    """Zeros."""
    return np.zeros(count, np.float32)


def noise(count: int, rng: np.random.Generator) -> np.ndarray:
    return levelled(coloured(count, rng), rng)


def tone(count: int, rng: np.random.Generator) -> np.ndarray:
    """One sine."""
    return levelled(_sine(count, float(np.exp(rng.uniform(*np.log(TONE_HERTZ)))), rng), rng)


def music(count: int, rng: np.random.Generator) -> np.ndarray:
    """Chords of one to four notes, each a decaying sum of harmonics."""
    wave, place = np.zeros(count, np.float32), 0
    while place < count:
        length = min(round(rng.uniform(*NOTE_SECONDS) * SAMPLE_RATE), count - place)
        decay = np.exp(-rng.uniform(1, 6) * np.arange(length) / SAMPLE_RATE).astype(np.float32)
        for semitone in rng.integers(*SEMITONES, rng.integers(1, 5)):
            base = A4_HERTZ * 2 ** (int(semitone) / 12)
            for number in range(1, HARMONICS + 1):
                if number * base < SAMPLE_RATE / 2:
                    wave[place : place + length] += decay * _sine(length, number * base, rng) / number
        place += length
    return levelled(wave, rng)


def clicks(count: int, rng: np.random.Generator) -> np.ndarray:
    """Single pulses of either sign over silence."""
    wave = np.zeros(count, np.float32)
    number = max(1, int(rng.poisson(rng.uniform(*CLICKS_A_SECOND) * count / SAMPLE_RATE)))
    for place in rng.integers(0, count, number).tolist():
        fall = rng.uniform(*CLICK_SECONDS) * SAMPLE_RATE
        pulse = np.exp(-np.arange(min(count - place, int(8 * fall))) / fall) * rng.uniform(-1, 1)
        wave[place : place + len(pulse)] += pulse.astype(np.float32)
    return np.clip(wave, -PEAK, PEAK)


KINDS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    **{"silence": silence, "noise": noise, "tone": tone},
    **{"music": music, "clicks": clicks},
}


def coloured(count: int, rng: np.random.Generator) -> np.ndarray:
    """Float32 [count] of noise with a spectrum of power 1/f^a, a drawn from 0 (white) to 2 (brown); of any level."""
    length = max(1024, 1 << (count - 1).bit_length())  # a fast Fourier transform, and one that reaches down to 20 Hz
    frequency = np.arange(length // 2 + 1) * (SAMPLE_RATE / length)
    audible = frequency >= LOWEST_NOISE_HERTZ
    shape = np.zeros(len(frequency), np.float32)
    shape[audible] = frequency[audible] ** (-rng.uniform(0, 2) / 2)
    spectrum = np.fft.rfft(rng.standard_normal(length, dtype=np.float32)) * shape
    return np.fft.irfft(spectrum, length)[:count].astype(np.float32)


def levelled(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The wave at a level drawn from LEVEL_DBFS, or as near to it as full scale allows; zeros stay zeros."""
    power, wanted = float(np.square(wave, dtype=np.float64).mean()), 10 ** (rng.uniform(*LEVEL_DBFS) / 20)
    if power == 0:
        return wave
    gain = min(wanted / power**0.5, PEAK / float(np.abs(wave).max()))
    return np.float32(gain) * wave


def _sine(count: int, hertz: float, rng: np.random.Generator) -> np.ndarray:
    phase = 2 * np.pi * (hertz / SAMPLE_RATE * np.arange(count) + rng.random())
    return np.sin(phase).astype(np.float32)
