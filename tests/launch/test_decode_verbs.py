"""transcribe, score and export from the command line: what is printed, written and answered."""

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from data_prep.audio.decode import encode_flac, write_flac
from data_prep.shards.index import shard_name, write_index
from data_prep.shards.opening import read_index
from data_prep.shards.tar import ShardWriter
from launch.command import main
from launch.scoring.rows import FILES
from model.weights import read_card
from tests.decode.conftest import SPEAKERS, TEXTS, noise
from tests.tiny import tiny_recogniser

SAMPLES = (16_000, 30_000, 9_000)


class World(NamedTuple):
    adapter: str
    shards: str
    recordings: list[str]
    folder: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """An adapter, three utterances as shards and the same as files."""
    folder = tmp_path_factory.mktemp("world")
    model, adapter = tiny_recogniser(folder)
    waves = [noise(i, count) for i, count in enumerate(SAMPLES)]
    (folder / "shards").mkdir()
    (folder / "cached").mkdir()
    with ShardWriter(folder / "shards" / shard_name(0)) as writer:
        for i, wave in enumerate(waves):
            meta = {"text": TEXTS[i], "seconds": len(wave) / 16000, "speaker": SPEAKERS[i], "language": "en"}
            meta |= {"task": "transcribe", "meta": {"room": "hall"}}
            writer.add(f"u{i}", "flac", encode_flac(wave), meta, len(wave))
        info = writer.close()
    write_index(folder / "shards", "audio", [info], {}, {}, {})
    assert model.encoder is not None
    fingerprint = model.encoder.fingerprint() | {"weights": "another", "feature_dtype": "float16"}
    shutil.copytree(folder / "shards", folder / "cached", dirs_exist_ok=True)
    write_index(folder / "cached", "features", [info], fingerprint, {}, {})
    recordings = [folder / f"{i}.flac" for i in range(len(waves))]
    for path, wave in zip(recordings, waves, strict=True):
        write_flac(path, wave)
    return World(str(adapter), str(folder / "shards"), [str(path) for path in recordings], folder)


def without_times(out: Path) -> tuple[dict, bytes]:
    """score.json without times, and results.jsonl."""
    score = json.loads((out / "score.json").read_text("utf-8"))
    return {name: value for name, value in score.items() if name != "decoding"}, (out / "results.jsonl").read_bytes()


def output(capsys) -> tuple[list[str], list[str]]:
    out, err = capsys.readouterr()
    return out.splitlines(), err.splitlines()


def test_transcribe_prints_a_line_a_recording_and_goes_on_past_bad_ones(world, capsys):
    bad = str(world.folder / "bad.wav")
    Path(bad).write_bytes(b"nothing")
    assert main(["transcribe", world.adapter, world.recordings[0], bad, world.recordings[1]]) == 1
    out, err = output(capsys)
    assert [line.split("\t")[0] for line in out] == world.recordings[:2]
    assert all(line.count("\t") == 1 and line.split("\t")[1] for line in out)
    assert err[-2] == "slam-asr: 1 recording could not be transcribed:" and err[-1].startswith(f"slam-asr: {bad}: ")


def test_transcribe_json_lines_beams_and_dtypes(world, capsys):
    search = ["--beams", "2", "--max-new-tokens", "4", "--encoder-dtype", "float32", "--llm-dtype", "nf4"]
    assert main(["transcribe", world.adapter, *world.recordings, "--format", "jsonl", *search]) == 0
    rows = [json.loads(line) for line in output(capsys)[0]]
    assert [row["path"] for row in rows] == world.recordings
    assert [row["seconds"] for row in rows] == [1.0, 1.875, 0.562]
    fields = ("path", "text", "seconds", "silent_seconds", "note", "confidence", "segments")
    assert {tuple(row) for row in rows} == {fields}


def test_a_folder_is_transcribed_file_by_file(world, tmp_path, capsys):
    folder = tmp_path / "calls"
    names = ["b.FLAC", "a/2.flac", "a/1.flac", ".hidden/1.flac", "._b.flac", "notes.txt", "a/clip.m4a"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(world.recordings[2], folder / name)
    assert main(["transcribe", world.adapter, world.recordings[0], str(folder)]) == 0
    out, err = output(capsys)
    wanted = [world.recordings[0], *(str(folder / name) for name in ("a/1.flac", "a/2.flac", "b.FLAC"))]
    assert [line.split("\t")[0] for line in out] == wanted
    [line] = [line for line in err if line.startswith(f"slam-asr: {folder}: ")]
    assert "3 recordings" in line and "2 other files" in line and ".m4a 1" in line
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    assert main(["transcribe", world.adapter, str(tmp_path / "empty")]) == 2
    out, err = output(capsys)
    assert out == [] and len(err) == 1 and str(tmp_path / "empty") in err[0] and "1 other file (.txt 1)" in err[0]


def test_score_prints_a_table_and_writes_hypotheses_and_numbers(world, tmp_path, capsys):
    command = ["score", world.adapter, world.shards, "--out", str(tmp_path / "out"), "--by", "speaker"]
    assert main([*command, "--max-new-tokens", "9"]) == 0
    lines = output(capsys)[0]
    assert [line.split()[:3] for line in lines[1:4]] == [["anna", "2", "3"], ["ben", "1", "4"], ["all", "3", "7"]]
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text("utf-8").splitlines()]
    assert [(row["key"], row["reference"], row["speaker"]) for row in rows] == [
        (f"u{i}", TEXTS[i], SPEAKERS[i]) for i in range(3)
    ]
    summary = json.loads((tmp_path / "out" / "score.json").read_text("utf-8"))
    assert summary["all"]["words"] == 7 and summary["step"] == 7 and summary["beams"] == 1
    assert summary["all"]["wer"] == sum(row["errors"] for row in rows) / 7
    assert summary["normaliser"] == "plain" and summary["aligner"].startswith("jiwer")
    assert set(summary["by"]) == {"speaker"} and set(summary["by"]["speaker"]) == {"anna", "ben"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(FILES)
    given = ["--ref", str(tmp_path / "out" / "results.jsonl"), "--hyp", str(tmp_path / "out" / "results.jsonl")]
    assert main(["score", *given, "--by", "speaker"]) == 0
    assert output(capsys)[0][:4] == lines[:4], "scoring the written hypotheses again gives the same table"


def test_another_scoring_is_not_overwritten_unasked(world, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["score", world.adapter, world.shards, "--max-new-tokens", "3", "--out", str(out)]
    assert main(command) == 0
    first = without_times(out)
    assert main(command) == 0, "the same command again"
    assert first == without_times(out)
    copy = shutil.copytree(world.shards, tmp_path / "copy")
    assert main([*command[:2], str(copy), *command[3:]]) == 0, "the same shards elsewhere"
    before = (out / "score.json").read_bytes(), (out / "results.jsonl").read_bytes()
    capsys.readouterr()
    texts = ["score", "--ref", str(out / "results.jsonl"), "--hyp", str(out / "results.jsonl"), "--out", str(out)]
    for other, what in (([*command, "--beams", "2"], "beams 1, not 2"), (texts, "references None, not")):
        assert main(other) == 2
        [line] = output(capsys)[1]
        assert str(out) in line and what in line and "--overwrite" in line
    assert before == ((out / "score.json").read_bytes(), (out / "results.jsonl").read_bytes())
    assert main([*command, "--beams", "2", "--overwrite"]) == 0
    assert json.loads((out / "score.json").read_text())["beams"] == 2
    (out / "score.json").unlink()
    capsys.readouterr()
    assert main(command) == 2 and "results.jsonl of another scoring" in output(capsys)[1][0]


def test_a_full_disk_leaves_the_score_that_was_there(world, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    command = ["score", world.adapter, world.shards, "--max-new-tokens", "3", "--out", str(out)]
    assert main(command) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main([*command, "--beams", "2", "--overwrite"]) == 2
    line = output(capsys)[1][-1]
    assert str(out) in line and "No space left on device" in line and "make room" in line
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_an_encoder_given_for_features_must_be_the_one_that_made_them(world, tmp_path, capsys):
    features = shutil.copytree(world.shards, tmp_path / "features")
    index, card = read_index(features), read_card(Path(world.adapter))
    write_index(features, "features", list(index.shards), card.encoder | {"feature_dtype": "float16"}, {}, {})
    other = shutil.copytree(world.folder / "encoder", tmp_path / "other")
    data = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    command = ["score", world.adapter, str(features), "--by", "mood", "--encoder"]
    assert main([*command, str(other)]) == 2
    line = output(capsys)[1][-1]
    assert str(other) in line and "another encoder" in line
    knowingly = ["score", world.adapter, world.shards, "--encoder", str(other), "--other-weights", "--out"]
    assert main([*knowingly, str(tmp_path / "out")]) == 0 and "has other weights" in output(capsys)[1][0]
    assert str(other) in without_times(tmp_path / "out")[0]["other_weights"]
    assert main([*command, str(world.folder / "encoder")]) == 2
    assert "'mood'" in output(capsys)[1][-1], "the encoder is right, what is wrong comes later"


def test_export_then_transcribe_from_the_export(world, tmp_path, capsys):
    assert main(["export", world.adapter, str(tmp_path / "out")]) == 0
    assert output(capsys)[0][0].startswith(f"{tmp_path / 'out'}: adapter of step 7 for ")
    assert main(["transcribe", str(tmp_path / "out"), world.recordings[0]]) == 0


def write_lines(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_given_texts_are_matched_by_key(tmp_path, capsys):
    rows = [{"key": "a", "text": "x y", "meta": {"room": "hall"}}, {"key": "b", "text": "z"}]
    ref = write_lines(tmp_path / "ref", rows)
    hyp = write_lines(tmp_path / "hyp", [{"key": "b", "hypothesis": "z"}, {"key": "a", "text": "X."}])
    assert main(["score", "--ref", ref, "--hyp", hyp, "--by", "room"]) == 0
    assert [line.split()[:4] for line in output(capsys)[0][1:4]] == [
        ["(none)", "1", "1", "0.00"],
        ["hall", "1", "2", "50.00"],
        ["all", "2", "3", "33.33"],
    ]


@pytest.mark.parametrize(
    ("ref", "hyp", "message"),
    [
        ([{"key": "a", "text": "x"}], [], "1 utterance of {ref} missing in {hyp}: a; give files of the same data"),
        ([], [{"key": "a", "text": "x"}], "1 utterance of {hyp} missing in {ref}: a; give files of the same data"),
        ([{"key": "a", "text": "x"}] * 2, [], "{ref}:2: key 'a' occurs twice; give one line per utterance"),
        ([{"key": "a"}], [], '{ref}:1: a line needs "key" and "reference" (or "text"), both strings'),
        ([], [], "{ref} holds no utterances; there is nothing to score"),
    ],
)
def test_given_texts_that_do_not_match_are_refused(tmp_path, capsys, ref, hyp, message):
    ref, hyp = write_lines(tmp_path / "ref", ref), write_lines(tmp_path / "hyp", hyp)
    assert main(["score", "--ref", ref, "--hyp", hyp]) == 2
    assert output(capsys)[1] == [f"slam-asr: {message.format(ref=ref, hyp=hyp)}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score"], "give ADAPTER and SHARDS, or --ref and --hyp"),
        (["score", "{adapter}"], "{adapter}' has no config.yaml, so is not a run with dev data; give SHARDS after it"),
        (["score", "{folder}/nowhere"], "{folder}/nowhere': there is no such folder"),
        (["score", "{adapter}", "{shards}", "--normaliser", "plain,papr"], "'papr' is not known, did you mean 'paper'"),
        (
            ["score", "{adapter}", "{shards}", "--normaliser", "plain,plain"],
            "is not a list of different names, such as a,b",
        ),
        (["score", "{adapter}", "{shards}", "--audio"], "--audio embeds audio in report.html, which --out DIR writes"),
        (["score", "{adapter}", "{shards}", "--against", "{shards}"], "{shards} holds no scoring"),
        (["score", "{adapter}", "{shards}", "--ref", "x"], "give ADAPTER and SHARDS, or --ref and --hyp"),
        (
            ["score", "{adapter}", "{shards}", "--by", "mood"],
            "no utterance has a field 'mood'; known: duration, language, room,",
        ),
        (["score", "{adapter}", "{shards}", "--by", "speeker", "--device", "warp"], "did you mean speaker?"),
        (["score", "{adapter}", "{folder}"], "is no shard directory"),
        (["score", "{shards}", "{adapter}"], "{adapter}' holds an adapter, not shards; write ADAPTER first"),
        (["score", "{adapter}", "{adapter}"], "{adapter}' holds an adapter, not shards; give"),
        (["score", "{folder}/nowhere", "{shards}"], "{folder}/nowhere': there is no such folder"),
        (["score", "{adapter}", "{folder}/nowhere"], "there is no {folder}/nowhere"),
        (["transcribe", "{shards}", "{folder}/0.flac"], "{shards}': it holds shards"),
        (["transcribe", "{folder}/llm", "{folder}/0.flac"], "{folder}/llm': it holds a pretrained model"),
        (["transcribe", "{adapter}", "{shards}"], "{shards}' holds shards, not recordings"),
        (["transcribe", "{adapter}", "{adapter}"], "{adapter}' holds an adapter, not recordings"),
        (["transcribe", "{adapter}", "{folder}/x.wav", "y.wav"], "no file '{folder}/x.wav' and 1 other; give"),
        (["export", "{shards}", "{folder}/new"], "{shards}': it holds shards"),
        (["export", "{folder}/nowhere", "{folder}/new"], "{folder}/nowhere': there is no such folder"),
        (["score", "{adapter}", "{folder}/cached"], "the adapter was trained with another encoder: its weights is"),
        (["score", "{adapter}", "{shards}", "--out", "{adapter}/adapter.json"], "cannot make --out"),
        (["transcribe", "{folder}", "{folder}/0.flac"], "no adapter in"),
        (["transcribe", "{adapter}", "{folder}/0.flac", "--device", "warp"], "device 'warp' is not on this machine"),
        (
            ["transcribe", "{adapter}", "{folder}/0.flac", "--device", "cuda:99"],
            "device 'cuda:99' is not on this machine",
        ),
        (["transcribe", "{adapter}", "{folder}/0.flac", "--dtype", "int3"], "unknown dtype 'int3'"),
        (["transcribe", "{adapter}", "{folder}/0.flac", "--llm-dtype", "nf5"], "LLM dtype 'nf5' is not known, did you"),
        (["transcribe", "{adapter}", "{folder}/0.flac", "--encoder-dtype", "nf4"], "unknown dtype 'nf4'"),
        (
            ["transcribe", "{adapter}", "{folder}/0.flac", "--llm", "{folder}/encoder"],
            "is a speech model (model_type 'hubert')",
        ),
        (["export", "{folder}", "{folder}/new"], "no adapter in"),
        (["export", "{adapter}", "{shards}"], "is there already and holds something else"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(world, capsys, arguments, message):
    values = {"adapter": world.adapter, "shards": world.shards, "folder": world.folder}
    assert main([part.format(**values) for part in arguments]) == 2
    out, err = output(capsys)
    assert out == [] and err[-1].startswith("slam-asr: ") and message.format(**values) in err[-1]


@pytest.mark.parametrize("flag", ["--beams", "--max-new-tokens", "--batch-tokens"])
def test_numbers_below_one_are_refused(flag, capsys):
    assert main(["transcribe", "a", "b", flag, "0"]) == 2
    assert "'0' is not a whole number of 1 or more" in capsys.readouterr().err


def test_contradicting_search_flags_are_refused(world, capsys):
    cases = {
        ("--nbest", "3", "--beams", "2"): "nbest 3: a search with 2 beams has only 2; give beams 3 or more",
        ("--repetition-penalty", "0"): "repetition_penalty 0: give a number above 0",
        ("--repetition-penalty", "nan"): "repetition_penalty nan",
        ("--length-penalty", "-1", "--beams", "2"): "length_penalty -1: give 0 or more",
        ("--length-penalty", "2"): "length_penalty 2 applies to beam search; give beams 2 or more",
    }
    for flags, message in cases.items():
        assert main(["transcribe", world.adapter, world.recordings[2], *flags]) == 2
        [line] = output(capsys)[1]
        assert message in line
    good = ["--beams", "2", "--nbest", "2", "--length-penalty", "0.8", "--repetition-penalty", "1.1", "--strict"]
    assert main(["transcribe", world.adapter, world.recordings[2], "--max-new-tokens", "4", *good]) == 0
