"""Recordings of any kind are transcribed in order; a bad one does not stop the others."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_prep.audio.decode import SAMPLE_RATE, encode_flac, write_flac
from decode.options import DecodeOptions
from decode.recordings import files
from decode.recordings.files import longest_window, transcribe_each
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
    transcribed = list(transcribe_each(model, [str(recordings[name]) for name in names]))
    assert [file.path for file in transcribed] == [str(recordings[name]) for name in names]
    assert [bool(file.error) for file in transcribed] == [False, True, False, True, True, True, True, False]
    assert transcribed[0].text and transcribed[0].text == transcribed[-1].text != transcribed[2].text
    assert transcribed[3].error == "No such file or directory"
    assert transcribed[4].error == "0.031 s is too short to transcribe; 0.105 s is enough"
    assert all("\n" not in file.error for file in transcribed)


def test_the_amount_read_ahead_does_not_change_texts(model, recordings, monkeypatch):
    paths = [str(recordings[name]) for name in ("short", "long", "broken", "long", "short")]
    whole = list(transcribe_each(model, paths, DecodeOptions(max_new_tokens=9)))
    monkeypatch.setattr(files, "READ_AHEAD_SECONDS", 1)
    for options in (DecodeOptions(max_new_tokens=9), DecodeOptions(max_new_tokens=9, batch_tokens=1)):
        others = list(transcribe_each(model, paths, options))
        assert [(one.text, one.note, one.seconds) for one in others] == [
            (one.text, one.note, one.seconds) for one in whole
        ]
        assert [one.confidence for one in others] == pytest.approx([one.confidence for one in whole], rel=1e-4)


def test_recordings_too_long_for_the_llm_are_split_or_refused(model, recordings, monkeypatch, tmp_path):
    write_flac(tmp_path / "longer.flac", np.concatenate([noise(seed, 48_000) for seed in range(4)]))
    words = len(model.prompt.prefix_ids) + len(model.prompt.suffix_ids)
    monkeypatch.setattr(model.llm.config, "max_position_embeddings", words + 101)
    [longer] = transcribe_each(model, [str(tmp_path / "longer.flac")])
    assert len(longer.segments) >= 3 and not longer.error and longer.seconds == 12.0
    monkeypatch.setattr(model.llm.config, "max_position_embeddings", 45)
    long, short = transcribe_each(model, [str(recordings["long"]), str(recordings["short"])])
    assert long.error == "the LLM has 45 positions, too few for 4 s of speech and its text; use another LLM"
    assert short.text and not short.error


def test_an_unsupported_format_is_refused_with_the_command_to_convert_it(model, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x1cftypisom" + bytes(600))
    (transcribed,) = transcribe_each(model, [str(tmp_path / "a.mp4")])
    assert "MP4" in transcribed.error and "ffmpeg -i a.mp4 -ar 16000 -ac 1 a.wav" in transcribed.error


def test_an_error_within_a_recording_fails_all_of_it_and_no_other(model, recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "READ_AHEAD_SECONDS", 5)
    data = bytearray(encode_flac(np.concatenate([noise(seed, 100_000) for seed in range(20)])))
    data[-40_000] ^= 4
    (tmp_path / "damaged.flac").write_bytes(data)
    paths = [str(recordings["short"]), str(tmp_path / "damaged.flac"), str(recordings["long"])]
    short, damaged, long = transcribe_each(model, paths, DecodeOptions(max_new_tokens=3))
    assert "decoding stops" in damaged.error and not damaged.segments and not damaged.note
    assert short.text and long.text and not short.error + long.error


def test_silence_is_not_decoded_and_is_noted(model, tmp_path):
    hiss = np.random.default_rng(0).normal(0, 0.01, 100 * 16_000).astype(np.float32)
    with soundfile.SoundFile(tmp_path / "hiss.flac", "w", 16_000, 1) as file:
        for _ in range(5):
            file.write(hiss)
    long, short, loud, tone = transcribe_each(
        model, [tmp_path / "hiss.flac", np.zeros((8, 32_000)), noise(0, 32_000), np.sin(np.arange(32_000) / 9)]
    )
    assert (long.text, long.note, long.segments, long.silent_seconds, long.seconds) == ("", "silence", (), 500, 500)
    assert (short.text, short.note, short.silent_seconds) == ("", "silence", 2.0)
    assert loud.text and tone.note == "silence"
    [decoded] = transcribe_each(model, [np.zeros(32_000)], vad="off")
    assert decoded.segments and decoded.silent_seconds == 0


def test_a_window_is_as_long_as_the_training_utterances_were_unless_asked_otherwise(model, monkeypatch):
    wave = np.concatenate([noise(seed, 60_000) for seed in range(4)])  # 15 s
    options = DecodeOptions(max_new_tokens=2)

    def windows(longest: float | None = None) -> int:
        [transcript] = transcribe_each(model, [wave], options, longest=longest)
        return len(transcript.segments)

    assert windows() == 1  # not known: up to 30 s
    monkeypatch.setattr(model, "utterance_seconds", 6.0)
    assert windows() >= 3 and windows(longest=20.0) == 1
    assert [longest_window(seconds) for seconds in (0.0, 1.0, 6.0, 100.0)] == [30.0, 4.0, 6.0, 30.0]


def test_batches_hold_windows_of_several_long_recordings(model, tmp_path):
    waves = [np.concatenate([noise(seed + i, 60_000) for i in range(5)]) for seed in (0, 9)]
    for i, wave in enumerate(waves):
        write_flac(tmp_path / f"{i}.flac", wave)
    paths, done = [tmp_path / "0.flac", tmp_path / "1.flac"], list[float]()
    options = DecodeOptions(max_new_tokens=6)
    together = list(transcribe_each(model, paths, options, longest=5.0, progress=done.append))
    assert [transcript.path for transcript in together] == list(map(str, paths))
    for transcript, wave, path in zip(together, waves, paths, strict=True):
        [alone] = transcribe_each(model, [path], options, longest=5.0)
        assert [segment.text for segment in alone.segments] == [segment.text for segment in transcript.segments]
        times = [time for segment in transcript.segments for time in (segment.start, segment.end)]
        assert times == sorted(times) and 0 <= times[0] and times[-1] <= transcript.seconds == len(wave) / 16_000
        assert len(transcript.segments) >= 4 and max(s.end - s.start for s in transcript.segments) <= 5
    assert sum(done) == pytest.approx(sum(t.seconds - t.silent_seconds for t in together))


def test_no_files_give_no_texts(model):
    assert list(transcribe_each(model, [])) == []


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
    [file] = transcribe_each(model, [str(path)])
    assert file.text and not file.error
    assert file.seconds == pytest.approx(1.0, abs=2 / SAMPLE_RATE)
