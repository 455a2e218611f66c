"""Streams and arrays give the samples of decode(), for every rate, format and block size."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_prep.audio import stream as streaming
from data_prep.audio.decode import AudioError, decode
from data_prep.audio.stream import from_array, stream
from tests.data_prep.conftest import tone

SPEECH = Path(__file__).parents[4] / "shared" / "speech"


def as_file(wave, rate=16000, kind="WAV", subtype="PCM_16"):
    out = io.BytesIO()
    soundfile.write(out, wave, rate, format=kind, subtype=subtype)
    return out.getvalue()


def streamed(source):
    return np.concatenate(list(stream(source)))


@pytest.mark.parametrize("rate", [8000, 11127, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("seconds", [0.03, 2.03])
def test_every_rate_is_streamed_as_decoded(rate, seconds, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK_SAMPLES", 9973)
    wave = np.random.default_rng(0).uniform(-0.9, 0.9, (round(seconds * rate), 2))
    data = as_file(wave, rate, subtype="FLOAT")
    whole, parts = decode(data), streamed(data)
    assert len(whole) == len(parts) and np.abs(whole - parts).max() <= (0 if rate == 16000 else 1e-6)


@pytest.mark.parametrize("kind", [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_24")])
def test_every_format_is_streamed_as_decoded(kind, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK_SAMPLES", 12_000)
    data = as_file(np.stack([tone(3.0), tone(3.0) / 2], 1), 32_000, *kind)
    assert np.abs(decode(data) - streamed(data)).max() <= 1e-6


BAD = {
    "empty": b"",
    "unreadable": b"not audio at all",
    "nan": as_file(np.full(1600, np.nan), subtype="FLOAT"),
    "bad-scale": as_file(tone(0.2) * 30000, subtype="FLOAT"),
    "too-short": as_file(tone(0.02)),
    "truncated": as_file(tone(0.5))[:9000],
    "no-length": 2 * as_file(tone(20.0), kind="MP3", subtype="MPEG_LAYER_III"),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_stream_is_refused_as_a_bad_file(reason):
    with pytest.raises(AudioError) as error:
        streamed(BAD[reason])
    with pytest.raises(AudioError) as decoding:
        decode(BAD[reason])
    assert error.value.reason == decoding.value.reason == reason


def test_an_array_gives_the_samples_of_the_same_recording_as_a_file():
    both = np.stack([tone(0.5), np.roll(tone(0.5), 40)]).astype(np.float32)
    expected = decode(as_file(both.T, 22_050, subtype="FLOAT"))
    for array in (both, both.astype(np.float64)):
        assert np.abs(from_array(array, 22_050) - expected).max() < 1e-6
    integers = np.rint(both[0] * 32768).clip(-32768, 32767).astype(np.int16)
    assert np.array_equal(from_array(integers, 16_000), decode(as_file(integers)))


@pytest.mark.parametrize(
    ("array", "rate", "message"),
    [
        (np.zeros((16_000, 2)), 16_000, "of shape (16000, 2), expected [samples] or [channels, samples]; transpose it"),
        (np.zeros((1, 2, 16_000)), 16_000, "of shape (1, 2, 16000), expected [samples]"),
        (np.zeros(16_000, bool), 16_000, "an array of bool, expected floats in -1 to 1"),
        (np.zeros(0), 16_000, "no samples"),
        (np.zeros(100), 16_000, "100 samples at 16 kHz, an utterance needs 400"),
        (np.zeros(16_000), 100, "100 Hz, usable are 4000 to 384000 Hz"),
        (np.full(16_000, np.inf), 16_000, "16,000 of 16,000 samples are NaN or Inf"),
        (np.full(16_000, 300.0), 16_000, "peak 300.0"),
        (np.asarray(None), 16_000, "an array of shape ()"),
    ],
)
def test_an_array_that_is_not_audio_is_refused(array, rate, message):
    with pytest.raises(AudioError) as error:
        from_array(array, rate)
    assert message in str(error.value)


@pytest.mark.skipif(not SPEECH.is_dir(), reason="needs ../shared/speech")
def test_real_files_of_every_format_are_streamed_as_decoded():
    for path in sorted((SPEECH / "odd_formats").glob("*[!l]")):
        assert np.abs(decode(path) - streamed(path)).max() <= 1e-6, path.name
