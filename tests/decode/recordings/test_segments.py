"""Recordings are split at pauses without loss or overlap, silence and noise are left out, and memory is constant."""

import tracemalloc
import wave as wave_file
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from data_prep.audio.decode import SAMPLE_RATE, AudioError, decode
from data_prep.audio.stream import stream
from decode.recordings.segments import split, whole

SPEECH = Path(__file__).parents[3] / "shared" / "speech"


def spoken(rng: np.random.Generator, seconds: float, level: float = 0.1) -> np.ndarray:
    """float32: syllables of noise and hum, four a second, some of them stressed."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    stress = np.repeat(10 ** rng.uniform(-0.8, 0, round(seconds * 4) + 1), SAMPLE_RATE // 4)[: len(time)]
    sound = rng.standard_normal(len(time)) * 0.3 + np.sin(2 * np.pi * 180 * time)
    return (level * stress * (0.08 + np.square(np.sin(np.pi * 4 * time))) * sound).astype(np.float32)


def hiss(rng: np.random.Generator, seconds: float, level: float = 1e-3) -> np.ndarray:
    return (level * rng.standard_normal(round(seconds * SAMPLE_RATE))).astype(np.float32)


def joined(rng: np.random.Generator, pauses: tuple[float, float], number: int) -> tuple[np.ndarray, list]:
    """Utterances of different levels with pauses between them; and the first and last sample of each."""
    parts, places, at = [hiss(rng, 0.5)], [], SAMPLE_RATE // 2
    for _ in range(number):
        utterance, pause = spoken(rng, rng.uniform(1, 9), rng.uniform(0.03, 0.3)), hiss(rng, rng.uniform(*pauses))
        places.append((at, at + len(utterance)))
        at += len(utterance) + len(pause)
        parts += [utterance, pause]
    return np.concatenate(parts), places


def windows(wave: np.ndarray, longest: float = 30.0, block: int = 100_000):
    """The windows, after a check that the stretches cover the recording."""
    stretches = list(split((wave[i : i + block] for i in range(0, len(wave), block)), longest))
    assert (stretches[0].start, stretches[-1].end) == (0, len(wave))
    assert all(one.end == following.start for one, following in pairwise(stretches))
    for one in stretches:
        if one.wave is not None:
            assert one.start <= one.speech[0] < one.speech[1] <= one.end and one.seconds <= longest
    return [one for one in stretches if one.wave is not None]


@pytest.mark.parametrize("pauses", [(0.4, 0.9), (0.4, 5.0)])
def test_every_utterance_is_whole_in_one_window(pauses):
    wave, places = joined(np.random.default_rng(1), pauses, 40)
    parts = windows(wave)
    for begin, end in places:
        [part] = [part for part in parts if part.start < end and begin < part.end]
        first = part.speech[0] - round(0.05 * SAMPLE_RATE)
        assert first <= begin and end <= part.speech[1] and part.wave is not None
        decoded = part.wave[begin - max(first, part.start) :][: end - begin]
        assert np.array_equal(decoded, wave[begin:end])
    assert max(part.seconds for part in parts) > 15 or pauses[1] > 2, "short pauses do not end a window early"


def test_the_block_size_does_not_change_the_windows():
    wave, _ = joined(np.random.default_rng(2), (0.3, 3.0), 8)
    assert [(a.start, a.end, a.speech) for a in windows(wave, 8, 1000)] == [
        (a.start, a.end, a.speech) for a in windows(wave, 8, len(wave))
    ]


@pytest.mark.parametrize("longest", [4.0, 7.0, 30.0])
def test_speech_without_a_pause_is_cut_where_it_is_quietest_and_no_sample_is_lost(longest):
    rng = np.random.default_rng(3)
    wave = spoken(rng, 70)
    middle = round((longest * 0.9) * SAMPLE_RATE)
    wave[middle - 2400 : middle + 2400] *= 0.01
    parts = windows(wave, longest)
    assert np.array_equal(np.concatenate([wave[part.start : part.end] for part in parts]), wave)
    assert abs(parts[0].end - middle) < 3000


@pytest.mark.parametrize("level", [1.0, 1e-1, 1e-2])
def test_quiet_speech_is_found_above_quiet_noise(level):
    rng = np.random.default_rng(4)
    wave = np.concatenate([hiss(rng, 20, 1e-2 * level), spoken(rng, 3, 0.1 * level), hiss(rng, 20, 1e-2 * level)])
    [part] = windows(wave)
    assert part.speech[0] <= 20 * SAMPLE_RATE and 23 * SAMPLE_RATE - 1000 <= part.speech[1] and part.seconds < 5


def test_a_quiet_speaker_between_loud_ones_is_found():
    rng = np.random.default_rng(5)
    parts = [part for _ in range(4) for part in (spoken(rng, 9, 0.3), hiss(rng, 3, 1e-4), spoken(rng, 4, 0.003))]
    wave = np.concatenate([part for one in parts for part in (one, hiss(rng, 0.5, 1e-4))])
    decoded = np.zeros(len(wave), bool)
    for part in windows(wave):
        decoded[part.start : part.end] = True
    loud = np.abs(wave) > 6e-4
    assert loud.sum() > 10_000 and decoded[loud].all()


def coloured(rng: np.random.Generator, seconds: int, slope: float) -> np.ndarray:
    """Noise whose power falls with 1 / frequency ** slope."""
    spectrum = np.fft.rfft(rng.standard_normal(seconds * SAMPLE_RATE))
    frequency = np.fft.rfftfreq(seconds * SAMPLE_RATE, 1 / SAMPLE_RATE)
    noise = np.fft.irfft(spectrum * np.where(frequency < 20, 0, np.maximum(frequency, 1) ** (-slope / 2)))
    return (0.3 * noise / np.abs(noise).max()).astype(np.float32)


def test_silence_noise_and_tones_are_not_speech():
    rng, time = np.random.default_rng(6), np.arange(100 * SAMPLE_RATE) / SAMPLE_RATE
    quiet = {
        "zeros": np.zeros(len(time), np.float32),
        "offset": np.full(len(time), 0.1, np.float32),
        "dither": (rng.integers(-1, 2, len(time)) / 32768).astype(np.float32),
        **{f"noise {slope}": coloured(rng, 100, slope) for slope in (0, 1, 2)},
        **{f"tone {hertz}": (0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32) for hertz in (50, 440, 3000)},
    }
    for name, wave in quiet.items():
        assert windows(wave) == [] and whole(wave[: 5 * SAMPLE_RATE]).wave is None, name
        assert whole(wave[:16_000]).wave is None or "noise" in name, name
    assert sum(one.seconds for one in split([quiet["zeros"]], 30.0, "off") if one.wave is not None) == 100.0
    assert whole(quiet["zeros"], "off").wave is not None


def test_a_long_file_is_split_in_constant_memory(tmp_path):
    rng = np.random.default_rng(7)
    minute = np.concatenate([spoken(rng, 40), hiss(rng, 20)])[::4]
    data = (128 + 127 * np.clip(minute * 3, -1, 1)).astype(np.uint8).tobytes()
    with wave_file.open(str(tmp_path / "long.wav"), "wb") as file:
        file.setparams((1, 1, 4000, 0, "NONE", ""))
        for _ in range(61):
            file.writeframes(data)
    with pytest.raises(AudioError, match="3,660 s"):
        decode(tmp_path / "long.wav")
    tracemalloc.start()
    end = number = 0
    for one in split(stream(tmp_path / "long.wav"), 30.0):
        assert one.start == end
        end, number = one.end, number + (one.wave is not None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert end == 3660 * SAMPLE_RATE and number == 2 * 61 and peak < 30e6, f"{peak:,} bytes"


@pytest.mark.skipif(not SPEECH.is_dir(), reason="needs ../shared/speech")
def test_no_real_utterance_is_taken_for_silence():
    paths = [path for kind in ("flac", "wav", "opus") for path in sorted(SPEECH.rglob(f"*.{kind}"))[::25]]
    assert len(paths) > 100
    assert not [path for path in paths if path.parent.name != "bad" and whole(decode(path)).wave is None]
