"""Decodes a recording of any length block by block, in constant memory.

The samples are those of `decode` to within 1e-6, as resampling sums in another order; at 16 kHz they are identical.
A truncation that the header shows is reported before the first block, other errors in the block where they occur."""

from collections.abc import Iterator
from numbers import Real

import numpy as np

from data_prep.audio.cuts import MAX_CHANNELS, AudioError, AudioInfo, require_possible
from data_prep.audio.decode import (
    BLOCK_SAMPLES,
    SAMPLE_RATE,
    Source,
    open_stream,
    opened,
    probe,
    ratio_of,
    read_frames,
    require_in_scale,
    require_long_enough,
    resample,
    resampled_count,
)
from data_prep.audio.truncation import what_is_cut_off, what_mp3_lacks

BLOCK_SECONDS = 10
EDGE_UNITS = 64  # of rate / gcd(rate, 16 kHz) samples: more than the filter's reach, 25 ms at 48 kHz or less


def stream(source: Source) -> Iterator[np.ndarray]:
    """Yields the recording as consecutive blocks, float32 [n] mono 16 kHz in [-1, 1]. AudioError and OSError as
    `decode`, but without a limit on the length."""
    declared = probe(source)
    with open_stream(source) as file:
        cut_off = ("truncated", what_is_cut_off(file))
        lacks = what_mp3_lacks(file, declared.frames) if declared.format == "MP3" else cut_off
    if lacks[1]:
        raise AudioError(*lacks)
    exact, total = declared.is_integer and declared.rate == SAMPLE_RATE, 0
    for block in resampled(_blocks(source), declared.rate):
        total += len(block)
        yield block if exact else np.clip(block, -1.0, 1.0)
    require_long_enough(total)


def _blocks(source: Source) -> Iterator[np.ndarray]:
    """Yields float32 [n] mono at the recording's own rate."""
    with opened(source) as (_, file, info):
        at, count = 0, 1
        while at < info.frames and count:
            frames = min(BLOCK_SAMPLES // info.channels, BLOCK_SECONDS * info.rate, info.frames - at)
            block = np.empty(frames, np.float32)
            count = read_frames(file, info, block)
            if count and not info.is_integer:
                require_in_scale(block[:count])
            at += count
            yield block[:count]
    if not at:
        raise AudioError("empty", "no samples")


def resampled(blocks: Iterator[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """Resamples consecutive blocks as `resample` does the whole, with EDGE_UNITS of context on both sides."""
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    ratio = ratio_of(rate)
    unit = ratio.denominator  # input samples that give `ratio.numerator` output samples
    edge, edge_out = EDGE_UNITS * unit, EDGE_UNITS * ratio.numerator
    held, taken, given = np.zeros(edge, np.float32), 0, 0  # zeros, as `resample` pads with
    for block in blocks:
        taken += len(block)
        held = np.concatenate([held, block])
        usable = (len(held) - 2 * edge) // unit * unit
        if usable > 0:
            yield resample(held[: usable + 2 * edge], rate)[edge_out : edge_out + usable // unit * ratio.numerator]
            given += usable // unit * ratio.numerator
            held = held[usable:]
    rest = resample(np.concatenate([held, np.zeros(2 * edge, np.float32)]), rate)[edge_out:]
    yield rest[: max(0, resampled_count(taken, rate) - given)]


def from_array(samples: np.ndarray, rate: float) -> np.ndarray:
    """Float32 [N] mono 16 kHz in [-1, 1] from floats or integers [N] or [channels, N] at `rate` Hz. AudioError as
    `decode`, and for any other shape or dtype."""
    if samples.ndim == 2 and 1 <= len(samples) <= min(MAX_CHANNELS, samples.shape[1]):
        mono = samples.mean(axis=0, dtype=np.float64)
    elif samples.ndim == 1:
        mono = samples
    else:
        expected = "expected [samples] or [channels, samples]"
        hint = "; transpose it" if samples.ndim == 2 and samples.shape[0] > samples.shape[1] else ""
        raise AudioError("bad-shape", f"an array of shape {samples.shape}, {expected}{hint}")
    if samples.dtype.kind not in "fi":
        raise AudioError("bad-kind", f"an array of {samples.dtype}, expected floats in -1 to 1 or signed integers")
    if not len(mono):
        raise AudioError("empty", "the array has no samples")
    if not isinstance(rate, Real) or rate != rate // 1:
        raise AudioError("bad-rate", f"a sample rate of {rate!r}, expected a whole number of Hz")
    rate = int(rate)
    require_possible(AudioInfo(rate, 1, len(mono), "array", str(samples.dtype)))
    if samples.dtype.kind == "i":
        mono = mono / -float(np.iinfo(samples.dtype).min)
    wave = np.ascontiguousarray(mono, np.float32)
    require_in_scale(wave)
    wave = np.clip(resample(wave, rate), -1.0, 1.0)
    require_long_enough(len(wave))
    return wave
