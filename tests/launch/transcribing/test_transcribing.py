"""`slam-asr transcribe`: formats and file names, resuming, and the same texts as from Python."""

import io
import json
import os
import resource
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.audio.decode import encode_wav, write_flac
from launch.command import main
from launch.transcribing import progress as audio_progress
from launch.transcribing.recordings import Recording, on_one_line, own_names
from launch.transcribing.transcripts import Transcripts
from slam_asr import load
from tests.decode.conftest import noise
from tests.tiny import tiny_recogniser

FAST = ["--max-new-tokens", "5", "--device", "cpu", "--dtype", "float32"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> str:
    return str(tiny_recogniser(tmp_path_factory.mktemp("tiny"))[1])


@pytest.fixture
def talks(tmp_path, monkeypatch) -> Path:
    """Three recordings in two folders, one of them silent."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("talks/a.flac", "talks/b/a.flac", "talks/b/silent.flac")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_flac(tmp_path / name, np.zeros(16_000) if "silent" in name else noise(i, 20_000))
    return tmp_path / "talks"


def ran(capsys, *arguments: object, code: int = 0) -> tuple[list[str], list[str]]:
    assert main(["transcribe", *map(str, arguments), *FAST]) == code
    out, err = capsys.readouterr()
    return out.splitlines(), err.splitlines()


def test_python_and_the_command_line_give_identical_transcripts_of_thirty_clips(adapter, tmp_path, capsys):
    paths = [tmp_path / f"{i:02}.flac" for i in range(30)]
    for i, path in enumerate(paths):
        write_flac(path, noise(i, 3_000 + 700 * i))
    lines, _ = ran(capsys, adapter, tmp_path, "--format", "jsonl", "--beams", "2")
    recogniser = load(adapter, device="cpu", dtype="float32")
    transcripts = recogniser.transcribe(paths, beams=2, max_new_tokens=5)
    assert [json.loads(line) for line in lines] == [transcript.to_json() for transcript in transcripts]
    assert len(lines) == 30 and len({transcript.text for transcript in transcripts}) > 20


def test_files_of_each_format_mirror_the_folders_and_are_made_once(adapter, talks, capsys):
    command = [adapter, talks, "--out", "out", "--format", "srt,json"]
    out, err = ran(capsys, *command)
    names = [f"{name}.{kind}" for name in ("a", "b/a", "b/silent") for kind in ("srt", "json")]
    assert sorted(str(path.relative_to("out")) for path in Path("out").rglob("*.*")) == sorted(
        [*names, "transcribed.jsonl"]
    )
    assert out == [] and err[-1] == "slam-asr: out: 3 recordings transcribed"
    silent = f"1 recording without speech, with empty text (the first is {talks / 'b' / 'silent.flac'})"
    assert f"slam-asr: {silent}" in err
    assert json.loads(Path("out/b/a.json").read_text())["path"] == str(talks / "b" / "a.flac")
    assert Path("out/b/silent.srt").read_text() == ""
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.*")}
    Path("out/b/a.json").unlink()  # as if it had been stopped there
    _, err = ran(capsys, *command)
    assert err[-1] == "slam-asr: out: 1 recording transcribed, 2 already done (--overwrite transcribes again)"
    again = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert {path.name for path in again} == {"a.json", "a.srt", "transcribed.jsonl"}
    _, err = ran(capsys, *command, "--llm", "none")  # nothing is left to do: no model is loaded
    assert err[-1] == "slam-asr: out: 0 recordings transcribed, 3 already done (--overwrite transcribes again)"
    _, err = ran(capsys, *command, "--overwrite")
    assert err[-1] == "slam-asr: out: 3 recordings transcribed"


def test_transcripts_of_other_settings_or_recordings_and_other_files_are_not_replaced(adapter, talks, capsys):
    ran(capsys, adapter, talks / "a.flac", "--out", "out")
    text = Path("out/a.txt").read_bytes()
    for arguments, message in (
        ((talks / "a.flac", "--beams", 2), "out holds other transcripts: beams was 1, now it is 2; give another --out"),
        (
            (talks / "b" / "a.flac",),
            f"out/a.txt is the transcript of {talks / 'a.flac'}, not of {talks / 'b' / 'a.flac'}; give",
        ),
    ):
        _, err = ran(capsys, adapter, *arguments, "--out", "out", code=2)
        assert message in err[-1]
    assert Path("out/a.txt").read_bytes() == text
    Path("mine").mkdir()
    Path("mine/a.txt").write_text("notes")
    _, err = ran(capsys, adapter, talks / "a.flac", "--out", "mine", code=2)
    assert "mine/a.txt exists and was not written by transcribe" in err[-1]
    assert [path.name for path in Path("mine").iterdir()] == ["a.txt"] and Path("mine/a.txt").read_text() == "notes"
    ran(capsys, adapter, talks / "a.flac", "--out", "mine", "--overwrite")
    assert Path("mine/a.txt").read_bytes() == text


def test_a_list_cut_off_in_its_last_line_is_resumed(adapter, talks, capsys):
    command = [adapter, talks, "--out", "out"]
    ran(capsys, *command)
    with open("out/transcribed.jsonl", "r+b") as file:
        file.truncate(os.path.getsize("out/transcribed.jsonl") - 5)
    assert "1 recording transcribed, 2 already done" in ran(capsys, *command)[1][-1]
    assert "0 recordings transcribed, 3 already done" in ran(capsys, *command)[1][-1]


@pytest.mark.usefixtures("default_signals")
def test_sigterm_leaves_no_copy_of_standard_input_and_what_is_done(adapter, talks, tmp_path, capsys, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    write = Transcripts.write

    def write_and_end(self: Transcripts, *arguments: Any) -> None:
        write(self, *arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Transcripts, "write", write_and_end)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(encode_wav(noise(0, 20_000)))))
    _, err = ran(capsys, adapter, talks / "a.flac", "-", "--out", "out", code=130)
    assert err[-1] == "slam-asr: stopped" and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert {path.name for path in Path("out").iterdir()} == {"a.txt", "transcribed.jsonl"}
    assert not list((tmp_path / "temporary").iterdir())


def test_globs_and_standard_input_are_recordings_too(adapter, talks, capsys, monkeypatch):
    wave = noise(0, 20_000)
    header = bytearray(encode_wav(wave))
    header[4:8] = header[40:44] = b"\xff" * 4  # as ffmpeg writes to a pipe, which has no length yet
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bytes(header))))
    out, _ = ran(capsys, adapter, "talks/**/a.flac", "-")
    assert [line.split("\t")[0] for line in out] == ["talks/a.flac", "talks/b/a.flac", "-"]
    assert out[2].split("\t")[1] == out[0].split("\t")[1] != ""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"no sound")))
    _, err = ran(capsys, adapter, "-", "--out", "out", code=1)
    assert err[-1].startswith("slam-asr: -: 8 bytes that soundfile cannot open")
    texts = []
    for seed in (1, 2):  # standard input is another recording each time
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(encode_wav(noise(seed, 20_000)))))
        ran(capsys, adapter, "-", "--out", "out")
        texts.append(Path("out/stdin.txt").read_text())
    assert len(set(texts)) == 2
    assert "no file 'talks/*.mp3'" in ran(capsys, adapter, "talks/*.mp3", code=2)[1][-1]


def test_a_pipe_is_a_recording_where_it_is_named_and_none_in_a_folder(adapter, talks, capsys):
    os.mkfifo(talks / "b" / "pipe.wav")
    _, err = ran(capsys, adapter, talks)  # nobody writes to it: reading it would not end
    assert f"slam-asr: {talks}: 3 recordings" in err
    recording = encode_wav(noise(0, 20_000))
    with ThreadPoolExecutor(1) as pool:
        pool.submit((talks / "b" / "pipe.wav").write_bytes, recording)
        out, _ = ran(capsys, adapter, talks / "a.flac", talks / "b" / "pipe.wav")
    assert len(out) == 2 and out[0].split("\t")[1] == out[1].split("\t")[1] != ""


def test_one_recording_is_printed_in_the_format_asked_for(adapter, talks, capsys):
    out, _ = ran(capsys, adapter, talks / "a.flac", "--format", "vtt")
    assert out[:2] == ["WEBVTT", ""] and "-->" in out[2]
    for arguments, message in (
        ((talks, "--format", "srt"), "--format srt of 3 recordings needs --out; or print jsonl"),
        ((talks, "--format", "srt,vtt"), "--format srt,vtt needs --out"),
        ((talks, "--format", "strt", "--out", "o"), "format 'strt' is not known, did you mean 'srt'"),
        ((talks, "--vad", "energie"), "vad 'energie' is not known, did you mean 'energy'"),
        ((talks, "--longest", "2"), "'2' is not a number of seconds of 4 or more"),
        (("-", "-"), "- is given twice"),
    ):
        assert message in ran(capsys, adapter, *arguments, code=2)[1][-1]


def test_progress_is_shown_for_long_audio_and_ends_at_its_total(adapter, talks, capsys, monkeypatch):
    monkeypatch.setattr(audio_progress, "SHOWN_SECONDS", 3)
    _, err = ran(capsys, adapter, talks, "--out", "out")
    [line] = [line for line in err if line.startswith("transcribe: ")]
    assert line.startswith("transcribe: 3 of 3 s of audio") and "x real time" in line


def test_every_recording_has_a_unique_name():
    given = ["x/a.wav", "y/a.wav", "y/A.flac", "b.flac", "x/b.wav", "x/b.flac"]
    names = own_names([Recording(path, os.path.basename(path)) for path in given])
    assert names == {
        **{"x/a.wav": "x/a", "y/a.wav": "y/a.wav", "y/A.flac": "y/A.flac"},
        **{"b.flac": "b", "x/b.wav": "x/b.wav", "x/b.flac": "x/b.flac"},
    }
    assert on_one_line("a\n\x1b caf\u00e9.wav") == "a\\n\\x1b caf\u00e9.wav"


def test_two_paths_of_one_file_are_one_recording(adapter, talks, capsys):
    command = [adapter, "talks/a.flac", "./talks/a.flac", talks / "a.flac", "--out", "out"]
    assert "out: 1 recording transcribed" in ran(capsys, *command)[1][-1]
    assert "out: 0 recordings transcribed, 1 already done" in ran(capsys, *command)[1][-1]


def test_a_recording_never_replaces_the_list_of_what_is_done(adapter, talks, capsys):
    (talks / "a.flac").rename(talks / "Transcribed.flac")
    command = [adapter, talks / "Transcribed.flac", "--out", "out", "--format"]
    assert "the list of what is done; rename the recording" in ran(capsys, *command, "jsonl", code=2)[1][-1]
    ran(capsys, *command, "json")


def test_a_disk_that_does_not_take_the_list_is_named(adapter, talks, capsys):
    ran(capsys, adapter, talks / "a.flac", "--out", "out")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = Path("out/transcribed.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1, limit[1]))
    try:
        _, err = ran(capsys, adapter, talks / "b" / "silent.flac", "--out", "out", code=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "cannot write out/transcribed.jsonl: File too large" in err[-1]
