"""recipes/real_pair/speech.py and curves.py: what they write, and what they say of bad input."""

import json

import numpy as np
import pytest

from data_prep.audio.decode import SAMPLE_RATE, decode, encode_flac
from recipes.real_pair import curves, speech


@pytest.fixture
def manifest(tmp_path):
    wave = np.sin(np.arange(2 * SAMPLE_RATE) / 20) * np.linspace(0, 0.5, 2 * SAMPLE_RATE)
    (tmp_path / "a.flac").write_bytes(encode_flac(wave))
    (tmp_path / "m.jsonl").write_text(
        json.dumps({"key": "a", "audio": "a.flac", "text": "A Word", "speaker": "s"}) + "\n"
    )
    return tmp_path / "m.jsonl"


def test_copies_are_slower_and_faster_and_the_same_again(manifest, tmp_path):
    written = []
    for out in (tmp_path / "one", tmp_path / "two"):
        assert speech.main([str(out), "--copies", str(manifest)]) == 0
        rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
        written.append([(row["key"], row["text"], row["speaker"], (out / row["audio"]).read_bytes()) for row in rows])
    assert written[0] == written[1]
    (slow, *about, data), (fast, *_, other) = written[0]
    assert (slow, fast, about) == ("a-slow", "a-fast", ["a word", "s"])
    assert (
        2 / 0.96 < len(decode(data)) / SAMPLE_RATE < 2 / 0.81 and 2 / 1.21 < len(decode(other)) / SAMPLE_RATE < 2 / 1.04
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "nothing to write"),
        (["--copies", "none.jsonl"], "none.jsonl cannot be read"),
        (["--copies", "bad.jsonl"], "bad.jsonl, line 2 lacks one of audio, text"),
    ],
)
def test_a_mistake_is_one_line(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"audio": "a.flac", "text": "a"}\n{"audio": "a.flac"}\n')
    assert speech.main(["out", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_curves_of_two_trainings_count_their_steps_on(tmp_path):
    records = [{"step": step, "kind": "train", "loss": 4.0 / step, "accuracy": 0.3} for step in (10, 20)]
    (tmp_path / "one.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    paths = [tmp_path / "one.jsonl"] * 2
    assert [record["step"] for record in curves.one_after_another(paths)] == [10, 20, 30, 40]
    assert curves.main([*map(str, paths), "--out", str(tmp_path / "c.svg")]) == 0
    drawn = (tmp_path / "c.svg").read_text()
    assert drawn.count('class="title"') == 2 and "Loss, nats a token" in drawn
