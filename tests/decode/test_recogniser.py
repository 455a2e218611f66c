"""The Python interface: the example runs; files, arrays and lists agree; mistakes are one-line errors."""

import re
import subprocess
import sys
from dataclasses import fields
from doctest import DocTestParser

import numpy as np
import pytest
import torch

import slam_asr
from data_prep.audio.decode import encode_flac, write_flac
from decode.options import DecodeOptions
from decode.recogniser import Search
from slam_asr import Recogniser, Transcript, UserError, load
from tests.decode.conftest import noise


@pytest.fixture(scope="module")
def recogniser(tiny) -> Recogniser:
    return load(tiny.adapter, device="cpu", dtype="float32")


def test_importing_it_imports_no_torch():
    code = "import sys, slam_asr; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_example_of_the_package_runs(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model" / "stand_in").mkdir(parents=True)
    (tmp_path / "model" / "stand_in" / "adapter").symlink_to(tiny.adapter)
    for name in ("recording.wav", "one.wav", "two.flac"):
        write_flac(tmp_path / name, noise(1, 30_000))
    examples = DocTestParser().get_examples(slam_asr.__doc__ or "")
    assert len(examples) == 7
    names = {"samples": noise(0, 44_100)}
    exec("".join(example.source for example in examples), names)
    assert names["text"] and len(names["transcripts"]) == 2 and capsys.readouterr().out.strip()
    assert all(hasattr(slam_asr, name) for name in slam_asr.__all__)


def test_files_bytes_arrays_and_tensors_give_the_same_transcript(recogniser, tmp_path):
    wave = np.round(noise(3, 40_000) * 32767) / 32767
    write_flac(tmp_path / "a.flac", wave)
    path = tmp_path / "a.flac"
    samples = np.round(wave * 32767).astype(np.int16)
    given = [path, str(path), path.read_bytes(), samples, torch.from_numpy(samples), np.stack([samples, samples])]
    one, *others = recogniser.transcribe(given, beams=2, max_new_tokens=8)
    assert one.path == str(path) and one.text and one.seconds == 2.5 and one.note == "cut"
    assert {transcript.text for transcript in others} == {one.text} and others[-1].path == ""
    assert recogniser.transcribe(path, beams=2, max_new_tokens=8) == one
    assert isinstance(recogniser.transcribe([path]), list) and isinstance(recogniser.transcribe(path), Transcript)
    assert recogniser.transcribe([]) == []


def test_a_long_array_of_another_rate_has_segments_in_order(recogniser):
    wave = np.concatenate([noise(seed, 5 * 8000) for seed in range(4)])
    transcript = recogniser.transcribe(wave, 8000, longest=6, max_new_tokens=5)
    assert transcript.seconds == 20.0 and len(transcript.segments) >= 4
    assert transcript.text == " ".join(segment.text for segment in transcript.segments)


def test_recordings_that_cannot_be_transcribed_raise_or_have_an_error(recogniser, tmp_path):
    write_flac(tmp_path / "a.flac", noise(0, 16_000))
    missing, there = str(tmp_path / "b.flac"), str(tmp_path / "a.flac")
    for audio in (missing, [there, missing]):
        with pytest.raises(UserError, match=r"b\.flac: No such file"):
            recogniser.transcribe(audio)
    with pytest.raises(ValueError, match="recording 1: an array of shape"):
        recogniser.transcribe([there, np.zeros((2, 2, 2))])
    for audio, rate, message in (
        ([0.1, 0.2], 16_000, "recording 0: float, expected a path"),
        (None, 16_000, "^NoneType, expected a path"),
        (np.zeros(0), 16_000, "^the array has no samples"),
        (np.zeros(16_000), "16000", "^a sample rate of '16000', expected a whole number of Hz"),
        (np.zeros(16_000), 44_100.5, "^a sample rate of 44100.5, expected"),
    ):
        with pytest.raises(UserError, match=message):
            recogniser.transcribe(audio, rate)
    bfloat = torch.from_numpy(noise(0, 16_000)).bfloat16()
    assert recogniser.transcribe(bfloat, 16_000.0).seconds == 1.0  # a rate as a float, as librosa may give it
    with pytest.raises(ValueError, match=r"^100 samples at 16 kHz"):
        recogniser.transcribe(np.zeros(100))
    bad, good = recogniser.transcribe_each([encode_flac(noise(0, 16_000))[:-900], there])
    assert bad.error and not bad.text and good.text and not good.error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 2}, "search option 'beam' is not known, did you mean 'beams'"),
        ({"beams": 0}, "beams is 0, it must be at least 1"),
        ({"beams": "4"}, "beams is '4', it must be a whole number"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"beams": 2.0}, "beams is 2.0, it must be a whole number"),
        ({"sample_rate": "16k"}, "a sample rate of '16k', expected a whole number of Hz"),
        ({"sample_rate": 44100.5}, "a sample rate of 44100.5, expected a whole number of Hz"),
        ({"nbest": 3, "beams": 2}, "nbest 3: a search with 2 beams has only 2"),
        ({"repetition_penalty": 0.0}, "repetition_penalty 0: give a number above 0"),
        ({"longest": 1}, "longest is 1, it must be at least 4"),
        ({"vad": "sillero"}, "vad 'sillero' is not known, did you mean 'silero'"),
    ],
)
def test_a_wrong_option_is_a_one_line_error(recogniser, options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        recogniser.transcribe(np.zeros(16_000), **options)


def test_every_field_of_the_search_is_a_keyword():
    assert set(Search.__annotations__) == {field.name for field in fields(DecodeOptions)} - {"synced_gpus"}


def test_load_says_what_is_wrong(tmp_path, tiny):
    with pytest.raises(UserError, match="no adapter in"):
        load(tmp_path)
    with pytest.raises(UserError, match="device 'warp' is not on this machine"):
        load(tiny.adapter, device="warp")
