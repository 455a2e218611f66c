"""Synthetic speech: the same bytes every time, and nothing of the test splits in training."""

import json
import random
import sys
from itertools import combinations

import numpy as np
import pytest

from data_prep.audio import decode as audio
from data_prep.synth import espeak, sentences
from data_prep.synth.corpus import VOICES, installed, write_corpus
from recipes.stand_in.augment import augment

pytest.importorskip("espeakng_loader", reason="needs the extra: pip install 'slam-asr[synth]'")


def rows_of(manifest):
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_call_writes_the_same_bytes_whatever_the_number_of_workers(tmp_path):
    for name, workers in (("one", 1), ("two", 2)):
        write_corpus(tmp_path / name, "dev", utterances=12, seed=3, workers=workers)
    one, two = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    assert one == two
    assert len(one) == 13


def test_every_line_of_a_corpus_fits_its_recording(tmp_path):
    manifest = write_corpus(tmp_path, "hard", utterances=9, seed=0, workers=2)
    rows = rows_of(manifest)
    assert len({row["key"] for row in rows}) == 9
    for row in rows:
        assert row["key"].replace("_", "").isalnum() and row["key"].isascii()
        info = audio.probe(manifest.parent / row["audio"])
        assert (info.rate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert row["duration"] == pytest.approx(info.seconds, abs=1e-3) and 0.5 < info.seconds < 15
        assert set(row["text"]) <= set(sentences.ALPHABET)
        assert row["speaker"] in installed("hard") and sentences.is_held_out(row["text"])


def test_no_voice_variant_speaks_in_two_splits():
    variants = {split: {voice.split("+")[1] for voice in names} for split, names in VOICES.items()}
    assert all(not variants[a] & variants[b] for a, b in combinations(variants, 2))
    assert len(variants["test"]) >= 10


def test_no_training_text_is_held_out_and_one_in_sixteen_is():
    rng = random.Random(0)
    training = {sentences.draw(rng, held_out=False, random_share=0.3) for _ in range(3000)}
    held_out = {sentences.draw(rng, held_out=True) for _ in range(300)}
    assert not training & held_out
    drawn = [sentences.sentence(rng) for _ in range(8000)]
    assert sum(map(sentences.is_held_out, drawn)) / len(drawn) == pytest.approx(1 / 16, rel=0.2)
    assert set("".join(training)) <= set(sentences.ALPHABET)


def test_augmentation_moves_a_click_by_its_speed():
    wave = np.zeros(32_000, np.float32)
    wave[16_000] = 1.0
    for seed in range(5):
        changed, speed = augment(wave, np.random.default_rng(seed), strength=0.3)
        assert np.abs(changed).argmax() == pytest.approx(16_000 / speed, abs=40)
        assert len(changed) == pytest.approx(32_000 / speed, abs=1)


def test_an_unknown_split_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="'tset' is not known, did you mean 'test'.*train, dev, test, hard"):
        write_corpus(tmp_path, "tset", utterances=1, seed=0, workers=1)


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match=r"pip install 'slam-asr\[synth\]'"):
        espeak._synthesiser.__wrapped__()
