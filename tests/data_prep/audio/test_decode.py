import io
import os
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_prep.audio import decode as audio
from data_prep.audio.cuts import STREAMINFO_END, AudioInfo, stream_info
from data_prep.audio.decode import (
    OGG_SERIAL,
    AudioError,
    decode,
    decode_by_dr_flac,
    decode_media,
    encode_flac,
    encode_opus,
    probe,
    resample,
    with_serial,
    write_flac,
)
from data_prep.audio.truncation import what_is_cut_off
from data_prep.recordings.open import open_source
from tests.data_prep.conftest import tone

needs_dr_flac = pytest.mark.skipif(not audio.HAS_DR_FLAC, reason="miniaudio has no wheel for this machine")
SPEECH = Path(__file__).parents[4] / "shared" / "speech"


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
    with pytest.raises(AudioError, match="last page"):
        decode(data[: len(data) // 2])


def test_an_mp3_that_is_cut_or_longer_than_its_decoder_takes_it_to_be_is_refused():
    data = as_file(speechlike(20.0), kind="MP3", subtype="MPEG_LAYER_III")
    second = data.index(data[:2], 100)  # behind Xing's frame
    assert len(decode(data)) == len(decode(b"ID3\x03\0\0\0\0\x10\0" + bytes(2048) + data)) == 320_000
    for reason, damaged in (
        ("truncated", data[: len(data) // 2]),
        ("no-length", data[second:]),
        ("no-length", 2 * data),
    ):
        with pytest.raises(AudioError) as error:
            decode(damaged)
        assert error.value.reason == reason and len(data) > 40_000


def test_a_wav_file_of_nothing_but_empty_chunks_is_soon_given_up(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF\0\0\0\0WAVE")
    os.truncate(tmp_path / "a.wav", 200 << 30)
    with open(tmp_path / "a.wav", "rb") as stream:
        assert what_is_cut_off(stream) == "no sound in its first 1,000 chunks"


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
        with pytest.raises(AudioError, match="2.00 s"):
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


KINDS = {  # of a recording of 45 s: how far a cut of it may be from the same stretch of the whole
    ("FLAC", "PCM_16"): 0.0,
    ("WAV", "PCM_24"): 0.0,
    ("WAV", "IMA_ADPCM"): 0.0,
    ("WAV", "GSM610"): 0.0,
    ("OGG", "VORBIS"): 0.0,
    ("OGG", "OPUS"): 0.0,
    ("MP3", "MPEG_LAYER_III"): 1.5e-7,  # its decoder rounds by where it began: 1/256 of a 16-bit step
}


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_a_cut_is_the_same_samples_as_in_the_whole(kind, tmp_path):
    path = tmp_path / "long"
    path.write_bytes(as_file(speechlike(45.0), kind=kind[0], subtype=kind[1]))
    whole = decode(path)
    for start, duration in ((0.0, 0.1), (0.3217, 1.0), (19.99, 0.5), (31.3333, 2.0), (41.0, None)):
        first = round(start * 16000)
        expected = whole[first:] if duration is None else whole[first : first + round(duration * 16000)]
        cut = decode(path, start, duration)
        assert len(cut) == len(expected) and np.abs(cut - expected).max() <= KINDS[kind], start


def speechlike(seconds):
    """Bursts of tones of changing pitch and loudness in noise, which make codecs change their minds."""
    generator = np.random.default_rng(0)
    time = np.arange(round(seconds * 16000)) / 16000
    pitch = np.repeat(generator.uniform(90, 800, round(seconds * 4) + 1), 4000)[: len(time)]
    loudness = np.repeat(generator.uniform(0, 0.5, round(seconds * 4) + 1), 4000)[: len(time)]
    wave = loudness * np.sin(2 * np.pi * np.cumsum(pitch) / 16000)
    return (wave + generator.normal(0, 0.01, len(time))).astype(np.float32)


def test_a_ten_hour_recording_is_refused_whole_and_cut_in_little_memory_also_inside_a_tar(tmp_path):
    minute = np.round(speechlike(60.0) * 32767).astype(np.int16)
    with soundfile.SoundFile(tmp_path / "ten.wav", "w", 4000, 1, subtype="PCM_U8") as file:  # 144 MB
        for _ in range(150):
            file.write(minute)
    with tarfile.open(tmp_path / "ten.tar", "w") as tar:
        tar.add(tmp_path / "ten.wav", "ten.wav")
    with tarfile.open(tmp_path / "ten.tar") as tar:
        place = tar.getmember("ten.wav")
    inside = open_source(str(tmp_path / "ten.tar"), f"bytes:{place.offset_data}:{place.size}")
    tracemalloc.start()
    for source in (tmp_path / "ten.wav", inside):
        assert probe(source).seconds == 36_000
        with pytest.raises(AudioError, match="36,000 s.* 3,600 s"):
            decode(source)
        decode(source, 35_000.0, 5.0)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert np.array_equal(decode(inside, 35_000.0, 5.0), decode(tmp_path / "ten.wav", 35_000.0, 5.0))


def test_opus_is_deterministic_and_keeps_every_sample():
    for count in (400, 16_001, 48_000):
        wave = speechlike(3.0)[:count]
        data = encode_opus(wave)
        assert data == encode_opus(wave) and len(decode(data)) == probe(data).frames == count
    assert len(data) < 12_000 and np.corrcoef(decode(data), wave)[0, 1] > 0.95


def test_another_serial_number_leaves_an_ogg_stream_whole():
    data = encode_opus(tone(2.0))
    other = with_serial(data, 77)
    assert other[OGG_SERIAL] == (77).to_bytes(4, "little") and with_serial(other, 1) == data
    assert np.array_equal(decode(other), decode(data))  # a wrong checksum would lose the page
    with pytest.raises(ValueError, match="byte"):
        with_serial(data[:-3], 1)


@pytest.mark.skipif(not SPEECH.is_dir(), reason="needs ../shared/speech")
def test_every_depth_container_and_channel_count_gives_one_waveform():
    for channels in ("mono", "stereo"):
        exact = decode(SPEECH / "odd_formats" / f"audio-{channels}-32-bit-44100Hz.wav")
        for path in sorted((SPEECH / "odd_formats").glob(f"audio-{channels}-*")):
            bits = int(path.name.split("-")[2])
            away = np.abs(decode(path) - exact)  # the FLAC files were dithered
            step = 2.0 ** (1 - min(bits, 24))
            assert away.max() <= 3 * step and np.sqrt(np.mean(away**2)) <= 0.6 * step, path.name


@needs_dr_flac
@pytest.mark.parametrize("wave", [tone(3.0), np.random.default_rng(0).uniform(-1, 1, 50_000), np.zeros(400)])
def test_dr_flac_and_libflac_give_the_same_bits(wave):
    data = encode_flac(wave)
    assert stream_info(data) == AudioInfo(16000, 1, len(wave), "FLAC", "PCM_16")
    decoded = np.empty(len(wave), np.float32)
    assert decode_by_dr_flac(bytearray(data), decoded)
    assert np.array_equal(decoded, decode(data))


@needs_dr_flac
def test_a_flipped_bit_or_a_cut_is_never_taken_for_the_recording():
    data, random = encode_flac(tone(1.0)), np.random.default_rng(0)
    whole, decoded = decode(data), np.empty(16000, np.float32)
    for _ in range(300):
        broken = bytearray(data)
        broken[random.integers(STREAMINFO_END, len(data))] ^= 1 << int(random.integers(8))
        assert not decode_by_dr_flac(broken, decoded) or np.array_equal(decoded, whole)
    for length in (0, 41, 100, len(data) - 1):
        with pytest.raises(AudioError):
            decode_media(data[:length], "flac", decoded)


@needs_dr_flac
def test_dr_flac_gets_no_stream_whose_header_disagrees_with_the_index(monkeypatch):
    data = bytearray(encode_flac(tone(1.0)))
    data[21] |= 0x0F  # 2**32 samples more
    monkeypatch.setattr(audio, "decode_by_dr_flac", lambda *_: pytest.fail("decoded"))
    with pytest.raises(AudioError, match="16,000"):
        decode_media(data, "flac", np.empty(16000, np.float32))
    assert stream_info(b"RIFF" + bytes(60)) is None and stream_info(data[:20]) is None
