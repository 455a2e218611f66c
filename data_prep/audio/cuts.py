"""What a recording's header declares, and which of its samples a cut covers: stated in seconds, or without silence."""

from dataclasses import dataclass

import numpy as np

from model.sample_rate import SAMPLE_RATE

MAX_SECONDS = 3600  # one utterance; longer recordings are cut by `start` and `duration`
MIN_RATE, MAX_RATE = 4_000, 384_000  # Hz
MAX_CHANNELS = 32
MAX_FRAMES = MAX_SECONDS * 48_000  # at the source's own rate: 691 MB of float32
CUT_SLACK_SECONDS = 0.1  # a stated duration this close to the recording's own is the whole recording
UNKNOWN_FRAMES = 1 << 62  # libsndfile's "the header does not say"
STREAMINFO_END = 42  # bytes of a FLAC stream: "fLaC", the header of a metadata block, STREAMINFO
SILENCE_FRAME = SAMPLE_RATE // 100  # samples, 10 ms: shorter than any speech sound, longer than a click
SILENCE_MARGIN = 15 * SILENCE_FRAME  # kept at each end: breath, the onset of a soft consonant


class AudioError(Exception):
    """A recording that cannot be used: one line, and a short `reason` to count by."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class AudioInfo:
    """What a recording's header declares."""

    rate: int  # Hz
    channels: int
    frames: int  # samples per channel
    format: str  # soundfile's name: "FLAC", "WAV" ...
    subtype: str  # "PCM_16" ...

    @property
    def seconds(self) -> float:
        return self.frames / self.rate

    @property
    def is_integer(self) -> bool:
        """Whether samples are integers, and so neither NaN nor beyond full scale."""
        return self.subtype.startswith("PCM_")

    def covered_by(self, start: float | None, duration: float | None) -> bool:
        """Whether this cut, in seconds, is the whole recording. Without a start, the duration may be a rounded one."""
        if duration is None:
            return not start
        if start is None:
            return abs(duration - self.seconds) <= CUT_SLACK_SECONDS
        return start == 0 and round(duration * self.rate) == self.frames


def stream_info(data: bytes | bytearray) -> AudioInfo | None:
    """What a native FLAC stream declares (RFC 9639, section 8.2); None for what does not begin as one does."""
    if len(data) < STREAMINFO_END or data[:4] != b"fLaC" or data[4] & 0x7F or data[5:8] != b"\0\0\x22":
        return None
    packed = int.from_bytes(data[18:26], "big")  # rate 20 bits, channels 3, bits a sample 5, samples 36
    subtype = f"PCM_{(packed >> 36 & 31) + 1}"
    return AudioInfo(packed >> 44, (packed >> 41 & 7) + 1, packed & (1 << 36) - 1, "FLAC", subtype)


def may_be_ready(info: AudioInfo, media: str) -> bool:
    """Whether such a recording may go into a shard of `media` as it is, as far as its header tells."""
    kind = {"flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS")}[media]
    return (info.format, info.subtype) == kind and (info.rate, info.channels) == (SAMPLE_RATE, 1)


def require_possible(info: AudioInfo) -> None:
    """AudioError for impossible rates, channels and lengths."""
    if not MIN_RATE <= info.rate <= MAX_RATE:
        raise AudioError("bad-rate", f"{info.rate} Hz, usable are {MIN_RATE} to {MAX_RATE} Hz")
    if not 1 <= info.channels <= MAX_CHANNELS:
        raise AudioError("bad-channels", f"{info.channels} channels, usable are 1 to {MAX_CHANNELS}")
    if info.frames <= 0:
        raise AudioError("empty", "the header declares no samples")
    if info.frames >= UNKNOWN_FRAMES:
        raise AudioError("no-length", "the header does not say how long it is (written to a pipe?); encode it again")


def cut_frames(info: AudioInfo, start: float | None, duration: float | None) -> tuple[int, int]:
    """First frame and number of frames of the cut, within every limit."""
    if info.covered_by(start, duration):
        start, duration = 0.0, None
    start = start or 0.0
    first = round(start * info.rate)
    count = info.frames - first if duration is None else round(duration * info.rate)
    over = first + count - info.frames
    if start < 0 or first >= info.frames or over > CUT_SLACK_SECONDS * info.rate:
        end = "" if duration is None else f" to {start + duration:.2f}"
        raise AudioError("bad-cut", f"cut from {start:.2f}{end} s of a recording of {info.seconds:.2f} s")
    count -= max(over, 0)
    if count > MAX_FRAMES or count > MAX_SECONDS * info.rate:
        raise AudioError("too-long", f"{count / info.rate:,.0f} s, an utterance has at most {MAX_SECONDS:,} s")
    return first, count


def refuse_silence(wave: np.ndarray) -> None:
    """AudioError for a constant signal (to one 16-bit step): silence, or a recording of nothing but DC."""
    if np.ptp(wave) <= 2 / 32768:
        raise AudioError("silent", f"constant at {float(wave[0]):.4f} for {len(wave) / SAMPLE_RATE:.2f} s")


def sounding_part(wave: np.ndarray, decibels: float) -> tuple[int, int]:
    """First sample of float32 [N] and the one after the last, without its silent ends (`--trim-silence`). Silent is a
    frame of 10 ms whose level (RMS) is more than `decibels` below that of the loudest; 0.15 s of it stay."""
    starts = np.arange(0, len(wave), SILENCE_FRAME)
    power = np.add.reduceat(np.square(wave), starts, dtype=np.float64) / np.diff(starts, append=len(wave))
    sounding = np.flatnonzero(power >= power.max() * 10 ** (-decibels / 10)) * SILENCE_FRAME
    end = int(sounding[-1]) + SILENCE_FRAME + SILENCE_MARGIN
    return max(0, int(sounding[0]) - SILENCE_MARGIN), min(len(wave), end)
