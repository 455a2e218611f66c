"""Recordings of any kind, in order; a bad one stops nothing."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.audio.decode import SAMPLE_RATE, write_flac
from decode import files
from decode.files import transcribe_files
from decode.generate import DecodeOptions
from tests.decode.conftest import noise


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("recordings")
    paths = {name: folder / f"{name}.flac" for name in ("long", "short", "tiny", "broken", "empty", "missing")}
    write_flac(paths["long"], noise(0, 60_000))
    write_flac(paths["short"], noise(1, 16_000))
    write_flac(paths["tiny"], noise(2, 500))
    paths["broken"].write_bytes(b"no sound at all")
    paths["empty"].write_bytes(b"")
    return paths | {"folder": folder}


def test_texts_come_in_the_order_given_and_errors_in_their_place(model, recordings):
    names = ["short", "broken", "long", "missing", "tiny", "empty", "folder", "short"]
    transcribed = list(transcribe_files(model, [str(recordings[name]) for name in names]))
    assert [file.path for file in transcribed] == [str(recordings[name]) for name in names]
    assert [bool(file.error) for file in transcribed] == [False, True, False, True, True, True, True, False]
    assert transcribed[0].text and transcribed[0].text == transcribed[-1].text != transcribed[2].text
    assert transcribed[3].error == "No such file or directory"
    assert transcribed[4].error == "0.031 s is too short to transcribe; 0.105 s is enough"
    assert all("\n" not in file.error for file in transcribed)


def test_the_window_read_ahead_changes_nothing(model, recordings, monkeypatch):
    paths = [str(recordings[name]) for name in ("short", "long", "broken", "long", "short")]
    whole = list(transcribe_files(model, paths, DecodeOptions(max_new_tokens=9)))
    monkeypatch.setattr(files, "READ_AHEAD_SECONDS", 1)
    assert list(transcribe_files(model, paths, DecodeOptions(max_new_tokens=9))) == whole
    assert list(transcribe_files(model, paths, DecodeOptions(max_new_tokens=9, batch_tokens=1))) == whole


def test_what_the_llm_has_no_room_for_says_so(model, recordings, monkeypatch):
    monkeypatch.setattr(model.llm.config, "max_position_embeddings", 45)
    long, short = transcribe_files(model, [str(recordings["long"]), str(recordings["short"])])
    assert long.error == "3.8 s is too long, the LLM's input has 45 places; cut it into parts"
    assert short.text and not short.error


def test_a_format_that_is_not_read_is_told_how_it_is_converted(model, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x1cftypisom" + bytes(600))
    (transcribed,) = transcribe_files(model, [str(tmp_path / "a.mp4")])
    assert "MP4" in transcribed.error and "ffmpeg -i a.mp4 -ar 16000 -ac 1 a.wav" in transcribed.error


def test_no_files_give_no_texts(model):
    assert list(transcribe_files(model, [])) == []


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (8_000, 1)])
def test_other_rates_and_channels_are_transcribed(model, tmp_path, rate, channels):
    import wave

    samples = np.repeat((noise(0, rate) * 32767).astype("<i2")[:, None], channels, axis=1)
    path = tmp_path / "odd.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    [file] = transcribe_files(model, [str(path)])
    assert file.text and not file.error
    assert file.seconds == pytest.approx(1.0, abs=2 / SAMPLE_RATE)
