import io

import numpy as np
import pytest
import soundfile

from data_prep.audio import AudioError, decode, encode_flac, probe, resample, write_flac
from tests.data_prep.conftest import tone


def as_file(wave, rate=16000, kind="WAV", subtype="PCM_16"):
    out = io.BytesIO()
    soundfile.write(out, wave, rate, format=kind, subtype=subtype)
    return out.getvalue()


def test_flac_is_deterministic_and_survives_its_own_decoding():
    data = encode_flac(tone(0.5))
    assert data == encode_flac(tone(0.5)) == encode_flac(decode(data))
    assert (probe(data).rate, probe(data).frames) == (16000, 8000)
    assert np.abs(decode(data) - tone(0.5)).max() < 1 / 32768


def test_every_common_rate_gives_the_right_length_and_pitch():
    for rate in (8000, 11127, 22050, 44100, 48000):
        wave = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
        heard = resample(wave, rate)
        assert abs(len(heard) - 16000) <= 1
        assert np.abs(np.fft.rfft(heard)).argmax() == 440


def test_channels_are_averaged_and_overshoot_is_clipped():
    both = np.stack([np.full(1600, 0.2), np.linspace(0, 0.4, 1600)], axis=1)
    assert np.allclose(decode(as_file(both)), both.mean(axis=1), atol=1e-4)
    assert decode(as_file(tone(0.2) * 5, subtype="FLOAT")).max() == 1.0


BAD = {
    "empty": b"",
    "unreadable": b"not audio at all",
    "nan": as_file(np.full(1600, np.nan), subtype="FLOAT"),
    "bad-scale": as_file(tone(0.2) * 30000, subtype="FLOAT"),
    "too-short": as_file(tone(0.02)),
    "bad-rate": as_file(tone(0.2), rate=1),
    "bad-channels": as_file(np.zeros((1600, 33))),
    "truncated": as_file(tone(0.5))[:9000],
    "damaged": encode_flac(tone(1.0))[:-400],
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_audio_is_refused_with_its_reason(reason):
    with pytest.raises(AudioError) as error:
        decode(BAD[reason])
    assert error.value.reason == reason and "\n" not in str(error.value)


def test_a_cut_ogg_is_found():
    data = as_file(tone(3.0), kind="OGG", subtype="VORBIS")
    assert len(decode(data)) == 48000
    with pytest.raises(AudioError, match="no last page"):
        decode(data[: len(data) // 2])


def test_a_bomb_is_refused_by_its_declared_length():
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", 16000, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(61):
            file.write(np.zeros(16000 * 60, dtype=np.int16))
    assert len(out.getvalue()) < 300_000
    with pytest.raises(AudioError, match="3,660 s"):
        decode(out.getvalue())
    assert len(decode(out.getvalue(), start=3000, duration=1)) == 16000


def test_cuts_are_exact_and_those_outside_are_refused(tmp_path):
    wave = tone(2.0)
    write_flac(tmp_path / "a.flac", wave)
    path = tmp_path / "a.flac"
    assert np.allclose(decode(path, 0.5, 1.0), wave[8000:24000], atol=1e-4)
    assert len(decode(path, 0.0, 2.05)) == 32000  # a rounded duration
    for start, duration in ((1.5, 1.0), (3.0, None), (-1.0, None)):
        with pytest.raises(AudioError, match="recording of 2.00 s"):
            decode(path, start, duration)


def test_a_flipped_bit_in_flac_is_heard_or_harmless():
    data, generator = encode_flac(tone(0.5)), np.random.default_rng(0)
    whole = decode(data)
    for position in generator.integers(0, len(data), 60):
        flipped = bytearray(data)
        flipped[position] ^= 1 << generator.integers(8)
        try:
            assert np.array_equal(decode(bytes(flipped)), whole)
        except AudioError as error:
            assert error.reason
