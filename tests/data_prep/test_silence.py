"""Sounds in which nothing is said: written, built, checked and read as utterances with empty answers."""

import json

import numpy as np

from data_prep.audio.decode import decode, probe
from data_prep.audio.wordless import KINDS
from data_prep.shards.opening import read_index
from data_prep.shards.reader import read_batch
from data_prep.synth.silence import write_silence
from launch.command import main
from model.prompt import Prompt
from model.skeleton import read_tokenizer
from tests.tiny import tiny_models


def test_a_corpus_of_all_kinds_and_lengths_depends_on_seed_and_number_alone(tmp_path):
    more, few, other = (
        write_silence(tmp_path / name, n, s) for name, n, s in (("a", 40, 3), ("b", 10, 3), ("c", 10, 4))
    )
    rows = [json.loads(line) for line in more.read_text().splitlines()]
    assert few.read_text().splitlines() == more.read_text().splitlines()[:10] != other.read_text().splitlines()
    for row in rows[:10]:
        assert (tmp_path / "a" / row["audio"]).read_bytes() == (tmp_path / "b" / row["audio"]).read_bytes()
    assert [row["kind"] for row in rows] == list(KINDS) * 8 and {row["text"] for row in rows} == {""}
    seconds = [row["duration"] for row in rows]
    assert 0.4 <= min(seconds) < 1 and 10 < max(seconds) <= 20
    waves = [decode(tmp_path / "a" / row["audio"]) for row in rows]
    for row, wave in zip(rows, waves, strict=True):
        assert abs(len(wave) / 16000 - row["duration"]) < 1e-3 and wave.any() == (row["kind"] != "silence")
        assert probe(tmp_path / "a" / row["audio"]).subtype == "PCM_16"
    levels = [10 * np.log10(np.square(w).mean()) for row, w in zip(rows, waves, strict=True) if row["kind"] == "noise"]
    assert min(levels) < -50 and max(levels) > -30


def test_it_is_built_checked_and_read_as_empty_answers_where_that_is_asked_for(tmp_path, capsys):
    out, shards = tmp_path / "out", tmp_path / "shards"
    assert main(["prep", "synth", str(out), "--split", "silence", "--utterances", "10"]) == 0
    assert f"prep build {out}/silence.jsonl OUT --allow-empty" in capsys.readouterr().out
    assert main(["prep", "build", str(out / "silence.jsonl"), str(shards)]) == 2
    assert "no-text 10; --allow-empty keeps recordings in which nothing is said" in capsys.readouterr().err
    rows = (out / "silence.jsonl").read_text() + json.dumps({"key": "x", "audio": "x.flac", "text": None})
    (out / "more.jsonl").write_text(rows)
    arguments = ["prep", "build", str(out / "more.jsonl"), str(shards), "--max-bad", "1", "--overwrite"]
    assert main([*arguments, "--allow-empty"]) == 0
    assert (
        "10 utterances" in (said := capsys.readouterr().out) and "bad: no-transcript 1 (see quarantine.jsonl)" in said
    )
    assert main(["prep", "check", str(shards)]) == 0 and main(["prep", "stats", str(shards)]) == 0
    assert main(["prep", "sample", str(shards), str(tmp_path / "clips"), "-n", "2"]) == 0
    manifest = tmp_path / "imported.jsonl"
    imported = ["prep", "import", "auto", str(out / "silence.jsonl"), "--out", str(manifest)]
    assert main([*imported, "--allow-empty"]) == 0
    said = capsys.readouterr().out
    assert (
        "10 rows read, 10 kept" in said
        and "(nothing is said)" in said
        and manifest.read_text().count('"text":""') == 10
    )
    assert main(imported) == 2 and "--allow-empty keeps" in capsys.readouterr().err
    index, prompt = read_index(shards), Prompt(read_tokenizer(str(tiny_models(tmp_path)[1])))
    batch = read_batch(index, range(len(index)), prompt)
    assert batch.targets.tolist() == [prompt.eos_id] * 10 and batch.texts == ("",) * 10
