"""Splits a recording of any length at its silences, in constant memory.

1. `band_levels` measures the level of each frame of 32 ms in five bands of speech, in dB.
2. The noise floor of a band is the 5th percentile of its levels over the half minute before and the audio read ahead.
   A frame is active if any band is RISE_DB above its floor: the level of speech varies by 20 dB and more, that of
   stationary noise and steady tones does not, and a quiet speaker in quiet noise is found as well as a loud one.
3. A stretch without active frames of SILENCE_SECONDS or more is silence, and is not decoded, except for MARGIN_SECONDS
   at its ends.
4. A stretch of speech longer than a window is cut in the middle of its longest pause: the longest run of frames about
   as quiet as the quietest, in the second half of the window. So a word is cut only if half a window has no pause.

The stretches follow each other without gaps or overlaps, and cover the whole recording. A window is decoded from
BEFORE_SECONDS before its first active frame to AFTER_SECONDS after its last. With `vad="silero"` a network decides
which frames are active; with "off" all are."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from decode.recordings.silero import Silero, weights_path
from model.errors import require_known
from model.sample_rate import SAMPLE_RATE

FRAME = 512  # samples, 32 ms
BANDS_HERTZ = ((150, 500), (500, 1000), (1000, 2000), (2000, 4000), (4000, 7500))
RISE_DB = 8.0
"""Above the noise floor. An hour of white, pink or brown noise stays within 6 dB of it; each of 2,608 recordings of
speech rises by 26 dB or more, and by 10 dB or more in noise as loud as the speech, as measured in `risen`."""
SMOOTHED_FRAMES = 5  # 0.16 s, about a syllable; smoothing keeps noise closer to its floor
QUIETEST_DB = -90.0  # re full scale: rounding of 16-bit samples; anything lower is not sound
FLOOR_PERCENTILE = 5
CONTEXT_SECONDS = 30.0  # of past audio from which the noise floor is estimated
SILENCE_SECONDS, MARGIN_SECONDS = 2.0, 0.3
BEFORE_SECONDS, AFTER_SECONDS = 0.05, 0.3
"""Audio around the active frames that is decoded too. In each of 241 real utterances the first active frame comes at
least 64 ms before Silero detects speech, and the last at most 160 ms before the end of it; models trained on utterances
without leading silence make more errors with more of it in front."""
PAUSE_FRAMES = 9  # 0.3 s over which levels are averaged, so that a pause between words is found, not a stop consonant
PAUSE_DB = 3.0  # frames within this of the quietest belong to a pause
LEAST_SECONDS = 4.0  # minimum of `longest`: half a window must exceed the longest pause that is not a silence
SHORTEST_SECONDS = 1.0  # minimum that a cut leaves for the last window
VADS = ("energy", "silero", "off")
PROBABILITY = 0.35  # of speech by Silero, from which a frame is active


@dataclass(frozen=True)
class Stretch:
    """Part of a recording: a window to decode, or silence."""

    start: int  # its first sample, at 16 kHz
    end: int  # the sample after its last
    wave: np.ndarray | None = None  # float32, the part that is decoded; None for silence
    speech: tuple[int, int] = (0, 0)  # first active sample, and the one after the last

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / SAMPLE_RATE

    @property
    def samples(self) -> int:
        """Of the part that is decoded."""
        return 0 if self.wave is None else len(self.wave)


def split(blocks: Iterable[np.ndarray], longest_seconds: float, vad: str = "energy") -> Iterator[Stretch]:
    """Yields the stretches of a recording, given as float32 [n] at 16 kHz in blocks of any size; no window is longer
    than `longest_seconds`, which is LEAST_SECONDS or more."""
    buffer, blocks, ended = _Buffer(vad), iter(blocks), False
    longest = round(longest_seconds * SAMPLE_RATE) // FRAME
    ahead = longest + _frames(SILENCE_SECONDS + MARGIN_SECONDS)
    while True:
        while not ended and len(buffer.wave) < (ahead + 1) * FRAME:
            block = next(blocks, None)
            ended = block is None
            if block is not None:
                buffer.append(block)
        if not len(buffer.wave):
            return
        active = buffer.active(ended)
        count, silent = _first_stretch(active, buffer.levels, longest, ended)
        stretch = buffer.take(count, active[:count], silent)
        yield stretch if stretch.wave is None else _trimmed(stretch, stretch.wave)


def _trimmed(stretch: Stretch, wave: np.ndarray) -> Stretch:
    first = max(0, stretch.speech[0] - stretch.start - round(BEFORE_SECONDS * SAMPLE_RATE))
    last = stretch.speech[1] - stretch.start + round(AFTER_SECONDS * SAMPLE_RATE)
    return replace(stretch, wave=wave[first:last])


def whole(wave: np.ndarray, vad: str = "energy") -> Stretch:
    """The recording as one window, whatever its length, or as silence if no frame is active."""
    buffer = _Buffer(vad)
    buffer.append(wave)
    active = buffer.active(True)
    return buffer.take(len(active), active, not active.any())


def require_vad(name: str) -> None:
    """UserError for a name that is not in VADS, or if the package that it needs is missing."""
    require_known("vad", name, VADS)
    if name == "silero":
        weights_path()


def _first_stretch(active: np.ndarray, levels: np.ndarray, longest: int, ended: bool) -> tuple[int, bool]:
    """Number of frames of the first stretch, and whether it is silence, from bool [n] and dB [n, bands] of the frames
    read ahead."""
    silence, margin = _frames(SILENCE_SECONDS), _frames(MARGIN_SECONDS)
    first = int(active.argmax()) if active.any() else len(active)
    if first == len(active):
        return (first if ended else first - margin), True
    if first >= silence - margin:
        return first - margin, True
    end = len(active) if ended else len(active) + silence
    begins = np.flatnonzero(np.diff(active.astype(np.int8)) < 0) + 1  # first inactive frame after active ones
    for begin in begins.tolist():
        following = int(active[begin:].argmax()) if active[begin:].any() else len(active) - begin
        if following >= silence:
            end = begin + margin
            break
    if end <= longest:
        return end, False
    least, most = longest // 2, min(longest, end - _frames(SHORTEST_SECONDS))
    return _pause(levels[:, -1], least, max(least + 1, most)), False


def _pause(levels: np.ndarray, least: int, most: int) -> int:
    """The frame to cut at, from `least` to `most`, in the middle of the longest pause."""
    power = np.convolve(10.0 ** (levels / 10), np.full(PAUSE_FRAMES, 1 / PAUSE_FRAMES), "same")
    smooth = 10 * np.log10(power[least : most + 1])
    quiet = np.concatenate([[False], smooth <= smooth.min() + PAUSE_DB, [False]])
    edges = np.flatnonzero(np.diff(quiet.astype(np.int8)))  # start, end, start, end ...
    begins, ends = edges[::2], edges[1::2]
    longest = int((ends - begins).argmax())
    return least + int(begins[longest] + ends[longest]) // 2


def _frames(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE / FRAME)


class _Buffer:
    """Samples that are read but not yet part of a stretch, with the levels of their frames."""

    def __init__(self, vad: str) -> None:
        self.vad, self.silero = vad, Silero() if vad == "silero" else None
        self.wave, self.start = np.zeros(0, np.float32), 0
        self.levels = self.past = np.zeros((0, len(BANDS_HERTZ) + 1), np.float32)  # dB [frames, bands + 1]
        self.speech = np.zeros(0, np.float32)  # [frames], Silero's probability of speech

    def append(self, block: np.ndarray) -> None:
        self.wave = np.concatenate([self.wave, block])

    def active(self, ended: bool) -> np.ndarray:
        """Bool [frames]: which are active; once the recording has `ended`, with a frame for the remainder."""
        known, whole = len(self.levels), len(self.wave) // FRAME
        frames = self.wave[known * FRAME : whole * FRAME].reshape(-1, FRAME)
        if ended and len(self.wave) % FRAME:
            last = self.wave[-FRAME:]  # overlaps the frame before: a partial frame would seem quiet
            frames = np.concatenate([frames, np.pad(last, (0, FRAME - len(last)))[None]])
        if len(frames):
            self.levels = np.concatenate([self.levels, band_levels(frames)])
            if self.silero is not None:
                self.speech = np.concatenate([self.speech, self.silero(frames)])
        if self.silero is not None:
            return self.speech >= PROBABILITY
        if self.vad == "off":
            return np.ones(len(self.levels), bool)
        return risen(np.concatenate([self.past, self.levels]))[len(self.past) :]

    def take(self, count: int, active: np.ndarray, silent: bool) -> Stretch:
        """Removes the first `count` frames and returns them as a stretch."""
        wave, first = self.wave[: count * FRAME], self.start
        self.wave, self.start = self.wave[count * FRAME :], first + len(wave)
        context = _frames(CONTEXT_SECONDS)
        self.past = np.concatenate([self.past, self.levels[:count]])[-context:]
        self.levels, self.speech = self.levels[count:], self.speech[count:]
        if silent:
            return Stretch(first, self.start)
        loud = np.flatnonzero(active)
        speech = (first + int(loud[0]) * FRAME, min(self.start, first + (int(loud[-1]) + 1) * FRAME))
        return Stretch(first, self.start, wave.copy(), speech)


def risen(levels: np.ndarray) -> np.ndarray:
    """Bool [n]: whether any band is RISE_DB above its noise floor, from dB [n, bands + 1]."""
    power = 10.0 ** (levels[:, :-1].astype(np.float64) / 10)
    reach = SMOOTHED_FRAMES // 2
    sums = np.concatenate([np.zeros((1, power.shape[1])), power.cumsum(0)])
    places = np.arange(len(power))
    low, high = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(power))
    smooth = 10 * np.log10((sums[high] - sums[low]) / (high - low)[:, None])
    return np.any(smooth > np.percentile(smooth, FLOOR_PERCENTILE, axis=0) + RISE_DB, axis=1)


def band_levels(frames: np.ndarray) -> np.ndarray:
    """Levels in dB re full scale, float32 [n, bands + 1], of frames float32 [n, FRAME]; the last column is all bands
    together."""
    window = np.hanning(FRAME + 1)[:-1].astype(np.float32)
    power = np.square(np.abs(np.fft.rfft(frames * window))) * (2 / (FRAME * np.square(window).sum()))
    hertz = np.arange(FRAME // 2 + 1) * SAMPLE_RATE / FRAME
    bands = np.stack([power[:, (low <= hertz) & (hertz < high)].sum(1) for low, high in BANDS_HERTZ], 1)
    bands = np.concatenate([bands, bands.sum(1, keepdims=True)], 1)
    return (10 * np.log10(bands + 10 ** (QUIETEST_DB / 10))).astype(np.float32)
