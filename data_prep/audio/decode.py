"""Decoding: any format that soundfile reads to float32 [N] mono at 16 kHz in [-1, 1]; and encoding.

- several channels are averaged; other rates are resampled (torchaudio, windowed sinc, ratio exact to 1e-6);
- samples beyond full scale are clipped, beyond MAX_PEAK refused (they are not in [-1, 1] at all);
- NaN, Inf, nothing, less than MIN_SAMPLES, more than MAX_SECONDS and a stream shorter than it declares are refused;
- the declared length is looked at before anything is decoded, and decoding goes by blocks, so a bomb costs nothing;
- a cut is what decoding everything gives there, and costs no more than the cut and a run-in (`_start_at`)."""

import importlib.util
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import soundfile

from data_prep.audio.cuts import MAX_SECONDS as MAX_SECONDS
from data_prep.audio.cuts import AudioError, AudioInfo, cut_frames, may_be_ready, require_possible, stream_info
from data_prep.audio.truncation import what_is_cut_off, what_mp3_lacks
from data_prep.durable import write_whole
from data_prep.refusals import why_unreadable
from model.sample_rate import SAMPLE_RATE

MIN_SAMPLES = 400  # 25 ms: the receptive field of the encoder's first frame
MAX_PEAK = 8.0  # 18 dB over full scale: above it a float file holds integers, not sound
# Of the files that `decode` reads.
EXTENSIONS = ("flac", "wav", "ogg", "oga", "opus", "mp3", "aiff", "aif", "aifc", "au", "caf", "w64", "sph", "rf64")
BLOCK_SAMPLES = 1 << 20  # decoded at a time, over all channels
RUN_IN_SECONDS = 20  # measured: Opus needs 10 until its decoder has forgotten where it began, Vorbis 0.5, MP3 0.1
SEEKABLE = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")  # subtypes decoded without the samples before; also FLAC's
HAS_DR_FLAC = importlib.util.find_spec("miniaudio") is not None  # no wheel for Linux on ARM
OGG_HEADER = 27  # bytes of a page, before the table of segments
OGG_SERIAL, OGG_CHECKSUM = slice(14, 18), slice(22, 26)  # of a page
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class Openable(Protocol):
    """A recording inside something else (data_prep/recordings)."""

    def open(self) -> BinaryIO: ...


Source = bytes | bytearray | str | Path | Openable


def probe(source: Source) -> AudioInfo:
    """Reads the header only. Raises AudioError for what is no recording, or one of an impossible kind."""
    with opened(source) as (_, _, info):
        return info


def decode(source: Source, start: float | None = None, duration: float | None = None) -> np.ndarray:
    """Float32 [N] mono 16 kHz in [-1, 1] of the cut (seconds), or of all. Raises AudioError, OSError for a path."""
    with opened(source) as (stream, file, info):
        first, count = cut_frames(info, start, duration)
        wave = np.empty(count, np.float32)  # the system gives memory only for what is written
        if first:
            _start_at(file, info, first)
        wave = wave[: read_frames(file, info, wave)]
        if not len(wave):
            raise AudioError("empty", "no samples")
        if not info.is_integer:
            require_in_scale(wave)
        lacks = what_mp3_lacks(stream, info.frames) if info.format == "MP3" else ("truncated", what_is_cut_off(stream))
        if lacks[1]:
            raise AudioError(*lacks)
    exact = info.is_integer and info.rate == SAMPLE_RATE  # neither a source nor a filter that goes beyond full scale
    wave = resample(wave, info.rate)
    require_long_enough(len(wave))
    return wave if exact else np.clip(wave, -1.0, 1.0)


def require_in_scale(wave: np.ndarray) -> None:
    """AudioError for NaN or Inf in float [N], N > 0, and for samples far outside -1 to 1."""
    peak = float(np.abs(wave).max())
    if not np.isfinite(peak):
        bad = np.flatnonzero(~np.isfinite(wave))
        raise AudioError("nan", f"{len(bad):,} of {len(wave):,} samples are NaN or Inf, the first at {bad[0]:,}")
    if peak > MAX_PEAK:
        raise AudioError("bad-scale", f"peak {peak:,.1f}, samples belong in -1 to 1")


def require_long_enough(samples: int) -> None:
    """AudioError for fewer samples at 16 kHz than the encoder's first frame needs."""
    if samples < MIN_SAMPLES:
        raise AudioError("too-short", f"{samples} samples at 16 kHz, an utterance needs {MIN_SAMPLES}")


def decode_media(data: bytes | bytearray, media: str, wave: np.ndarray) -> None:
    """Fills float32 [N] with the recording of a shard whose `media` is "flac", as `encode_flac` makes it, or any other.
    AudioError as `decode`, for "flac" that is another kind, and unless they hold exactly N samples."""
    if media != "flac":
        decoded = decode(data)
        _require_samples(len(decoded), wave)
        wave[:] = decoded
        return
    expected = AudioInfo(SAMPLE_RATE, 1, len(wave), "FLAC", "PCM_16")
    if HAS_DR_FLAC and stream_info(data) == expected and decode_by_dr_flac(data, wave):
        return  # any error is left to the slower decoder, which explains it
    with opened(data) as (_, file, info):
        if not is_ready(data, info):
            given = f"{info.rate:,} Hz {info.format} {info.subtype} of {info.channels} channels"
            raise AudioError("not-ready", f"{given}, a shard holds 16 kHz mono 16-bit FLAC")
        _require_samples(info.frames, wave)
        read_frames(file, info, wave)


def decode_by_dr_flac(data: bytes | bytearray, wave: np.ndarray) -> bool:
    """Fills float32 [N] with the same samples as libFLAC's, in 0.6 of the time; False for a damaged stream or one of
    another number. dr_flac trusts a stream's header: only for streams whose header agrees with the index."""
    try:
        import miniaudio
    except ImportError:
        return False
    try:
        samples = np.frombuffer(miniaudio.flac_read_s16(bytes(data)).samples, np.int16)
    except miniaudio.MiniaudioError:
        return False
    if len(samples) != len(wave):
        return False
    np.multiply(samples, np.float32(1 / 32768), out=wave)
    return True


def _require_samples(count: int, wave: np.ndarray) -> None:
    if count != len(wave):
        raise AudioError("bad-length", f"{count:,} samples, the index says {len(wave):,}")


def resample(wave: np.ndarray, rate: int, target: int = SAMPLE_RATE) -> np.ndarray:
    """Float32 [N] at `rate` Hz to float32 [M] at `target` Hz; the same array where they are equal. By one thread, so
    that the bits do not depend on the number of cores."""
    if rate == target:
        return wave
    import torch

    ratio = ratio_of(rate, target)
    tensor = torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _resampler(ratio.denominator, ratio.numerator)(tensor).numpy()
    finally:
        torch.set_num_threads(threads)


def resampled_count(count: int, rate: int, target: int = SAMPLE_RATE) -> int:
    """How many samples `resample` gives for `count`, by torchaudio's own arithmetic, which rounds to float32."""
    if rate == target:
        return count
    ratio = ratio_of(rate, target)
    there = (count // ratio.denominator + 1) * ratio.numerator
    return min(there, int(np.ceil(np.float32(ratio.numerator * count / ratio.denominator))))


def ratio_of(rate: int, target: int = SAMPLE_RATE) -> Fraction:
    """`target` / `rate` as a fraction."""
    return Fraction(target, rate).limit_denominator(1000)  # 22,255 Hz would ask for a kernel of 1 GB


@lru_cache(maxsize=8)
def _resampler(rate: int, target: int) -> Any:
    """The filter of a pair of rates; making it costs as much as using it on ten seconds."""
    try:
        from torchaudio.transforms import Resample
    except ImportError:
        needs = "its sample rate is not 16 kHz, and resampling needs the package torchaudio: pip install torchaudio"
        raise AudioError("needs-torchaudio", needs) from None
    return Resample(rate, target)


def encode_flac(wave: np.ndarray, kind: str = "FLAC") -> bytes:
    """16 kHz mono 16-bit FLAC of float [N], clipped to [-1, 1]. The same wave gives the same bytes."""
    samples = np.empty(len(wave), np.int16)
    for first in range(0, len(wave), BLOCK_SAMPLES):  # block by block, as float64 takes four times the memory
        block = np.asarray(wave[first : first + BLOCK_SAMPLES], dtype=np.float64)
        samples[first : first + BLOCK_SAMPLES] = np.clip(np.rint(block * 32768.0), -32768, 32767)
    return _encode(samples, kind, "PCM_16")


def encode_wav(wave: np.ndarray) -> bytes:
    """The same samples as 16 kHz mono 16-bit WAV."""
    return encode_flac(wave, "WAV")


def encode_opus(wave: np.ndarray) -> bytes:
    """16 kHz mono Ogg-Opus (RFC 7845) of float [N], clipped to [-1, 1]; N samples when decoded, at about 28 kbit/s. The
    same wave gives the same bytes: libsndfile's random serial number is replaced."""
    return with_serial(_encode(np.clip(wave, -1.0, 1.0).astype(np.float32), "OGG", "OPUS"), 1)


def _encode(samples: np.ndarray, kind: str, subtype: str) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, SAMPLE_RATE, format=kind, subtype=subtype)
    return out.getvalue()


def with_serial(data: bytes, serial: int) -> bytes:
    """An Ogg stream (RFC 3533) with another serial number in its pages. ValueError for what is no such stream."""
    out, position = bytearray(data), 0
    while position < len(out):
        table = out[position + OGG_HEADER : position + OGG_HEADER + out[position + OGG_HEADER - 1]]
        end = position + OGG_HEADER + len(table) + sum(table)
        if out[position : position + 4] != b"OggS" or end > len(out):
            raise ValueError(f"byte {position:,} of {len(out):,} begins no page of an Ogg stream")
        page = out[position:end]
        page[OGG_SERIAL] = serial.to_bytes(4, "little")
        page[OGG_CHECKSUM] = bytes(4)
        # Ogg's CRC-32: zlib's polynomial, most significant bit first, nothing inverted before or after.
        mirrored = zlib.crc32(page.translate(MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
        page[OGG_CHECKSUM] = int(f"{mirrored:032b}"[::-1], 2).to_bytes(4, "little")
        out[position:end], position = page, end
    return bytes(out)


def write_flac(path: str | os.PathLike[str], wave: np.ndarray) -> None:
    """`encode_flac` into a file that appears whole or not at all."""
    write_whole(Path(path), encode_flac(wave))


def is_ready(data: bytes | bytearray, info: AudioInfo, media: str = "flac") -> bool:
    """Whether these bytes are of the kind that the encoder of `media` makes, nothing in front of it."""
    return may_be_ready(info, media) and data[:4] == (b"fLaC" if media == "flac" else b"OggS")


def open_stream(source: Source) -> BinaryIO:
    """Its bytes as a file."""
    if isinstance(source, bytes | bytearray):
        return io.BytesIO(source)
    # without a buffer, so that libsndfile can read the descriptor itself: a seek in MP3 is 90,000 small reads an hour
    return io.FileIO(source, "rb") if isinstance(source, str | Path) else source.open()


@contextmanager
def opened(source: Source) -> Iterator[tuple[BinaryIO, soundfile.SoundFile, AudioInfo]]:
    """The recording, opened for decoding; AudioError for what soundfile cannot open or decode."""
    with open_stream(source) as stream:
        size = stream.seek(0, io.SEEK_END)
        if not size:
            raise AudioError("empty", "the file has 0 bytes")
        stream.seek(0)
        try:
            handle = stream.fileno() if isinstance(stream, io.FileIO) else stream
            file = soundfile.SoundFile(handle, closefd=False)
        except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError) as error:
            raise AudioError(*why_unreadable(stream, size, _one_line(error))) from None
        with file:
            info = AudioInfo(file.samplerate, file.channels, file.frames, file.format, file.subtype)
            require_possible(info)
            try:
                yield stream, file, info
            except (soundfile.SoundFileError, RuntimeError) as error:
                raise AudioError("damaged", f"decoding stops: {_one_line(error)}") from None


def _start_at(file: soundfile.SoundFile, info: AudioInfo, first: int) -> None:
    """Moves on to frame `first`. A decoder of MP3, Vorbis or Opus that begins in the middle is wrong for a while: it
    begins a run-in earlier, and then differs from one that began at the start by nothing, or by the rounding of MP3
    (1.2e-7). A decoder of unlimited memory (ADPCM, GSM ...) begins at the start."""
    compressed = info.format in ("OGG", "MP3")
    run_in = round(RUN_IN_SECONDS * info.rate) if compressed else 0 if info.subtype.startswith(SEEKABLE) else first
    at = max(0, first - run_in)
    if at:
        file.seek(at)
    while at < first:
        count = len(file.read(min(first - at, BLOCK_SAMPLES // info.channels), dtype="float32"))
        if not count:
            raise AudioError("truncated", f"{at:,} samples where the header declares {info.frames:,}")
        at += count


def read_frames(file: soundfile.SoundFile, info: AudioInfo, wave: np.ndarray) -> int:
    """Fills float32 [N] block by block, channels averaged; returns N, or less where a format only estimates it."""
    got = 0
    while got < len(wave):
        part = wave[got : got + BLOCK_SAMPLES // info.channels]
        if info.channels == 1:
            count = len(file.read(out=part))
        else:
            block = file.read(len(part), dtype="float32", always_2d=True)
            count = len(block)
            part[:count] = block.mean(axis=1)
        if not count:
            break
        got += count
    if got < len(wave) and info.format != "MP3":
        raise AudioError("truncated", f"{got:,} samples where the header declares {len(wave):,}")
    return got


def _one_line(error: Exception) -> str:
    return " ".join(getattr(error, "error_string", str(error)).split())
