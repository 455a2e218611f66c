from dataclasses import replace

import numpy as np
import pytest
import torch

from data_prep.build import BuildOptions, build
from data_prep.check import check
from data_prep.features import build_features
from data_prep.index import read_index
from data_prep.reader import read_batch, read_utterance, read_wave
from data_prep.stats import table
from model.encoders import load_encoder
from model.errors import UserError
from model.prompt import Prompt
from tests.tiny import tiny_models


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def encoder(models):
    return load_encoder(str(models[0]))


@pytest.fixture
def audio(tmp_path, corpus):
    build(corpus, tmp_path / "audio", BuildOptions(shard_size=5))
    return read_index(tmp_path / "audio")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_cached_frames_are_the_encoders_own(tmp_path, audio, encoder, dtype):
    totals = build_features(audio, encoder, tmp_path / "features", dtype)
    index = read_index(tmp_path / "features")
    assert (index.key, index.kind) == (audio.key, "features")
    assert np.array_equal(index.shard, audio.shard) and np.array_equal(index.samples, audio.samples)
    assert index.fingerprint == encoder.fingerprint() | {"feature_dtype": dtype}
    assert np.array_equal(index.frames, encoder.out_len(audio.samples)) and totals.frames == index.frames.sum()
    assert check(tmp_path / "features") == [] and "features" in table(index)
    batch = read_batch(index, [3], _prompt())
    wave = read_wave(audio, 3)
    frames, _ = encoder(wave, torch.tensor([0, len(wave)]))
    assert batch.features is not None and torch.equal(batch.features, frames.to(getattr(torch, dtype)))
    assert read_utterance(index, 3).text == read_utterance(audio, 3).text


def test_both_kinds_of_index_give_the_same_batch_but_for_the_speech(tmp_path, audio, encoder):
    build_features(audio, encoder, tmp_path / "features")
    ids = [7, 0, 4]
    heard, cached = (read_batch(index, ids, _prompt()) for index in (audio, read_index(tmp_path / "features")))
    assert heard.keys == cached.keys == tuple(audio.key[i] for i in ids)
    assert heard.texts == cached.texts and torch.equal(heard.targets, cached.targets)
    assert heard.audio_cu.diff().tolist() == audio.samples[ids].tolist()
    assert cached.feature_cu.diff().tolist() == encoder.out_len(audio.samples[ids]).tolist()


def test_a_broken_off_feature_build_goes_on_to_the_same_bytes(tmp_path, audio, encoder):
    build_features(audio, encoder, tmp_path / "features")
    before = {path.name: path.read_bytes() for path in (tmp_path / "features").iterdir()}
    assert build_features(audio, encoder, tmp_path / "features").already_built
    for name in ("index.json", "shard-000001.idx.json"):
        (tmp_path / "features" / name).unlink()
    (tmp_path / "features" / ".unfinished.json").write_bytes(_unfinished(audio, encoder))
    assert build_features(audio, encoder, tmp_path / "features").kept_shards == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "features").iterdir()} == before


def test_another_encoder_or_other_audio_is_refused(tmp_path, audio, encoder, models, corpus):
    build_features(audio, encoder, tmp_path / "features")
    with pytest.raises(UserError, match=r"another layer \(2, now 1\)"):
        build_features(audio, load_encoder(str(models[0]), layer=1), tmp_path / "features")
    build([replace(corpus[0], text="other")], tmp_path / "other", BuildOptions())
    with pytest.raises(UserError, match="made with another audio"):
        build_features(read_index(tmp_path / "other"), encoder, tmp_path / "features")
    with pytest.raises(UserError, match="an encoder needs audio"):
        build_features(read_index(tmp_path / "features"), encoder, tmp_path / "twice")
    with pytest.raises(UserError, match="holds the audio itself"):
        build_features(audio, encoder, audio.root, overwrite=True)
    with pytest.raises(UserError, match="feature dtype 'int8'"):
        build_features(audio, encoder, tmp_path / "new", "int8")
    assert not (tmp_path / "new").exists()


def test_frames_too_large_for_float16_are_refused_with_the_way_out(tmp_path, audio, encoder, monkeypatch):
    quiet = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda audio, cu: (quiet(audio, cu)[0] * 0 + 1e6, quiet(audio, cu)[1]))
    with pytest.raises(UserError, match="reach 1e.06, more than float16 .*--feature-dtype bfloat16"):
        build_features(audio, encoder, tmp_path / "features")
    assert not list((tmp_path / "features").glob("*shard*"))


def _unfinished(audio, encoder):
    from data_prep.durable import canonical_json

    fingerprint = encoder.fingerprint() | {"feature_dtype": "float16"}
    return canonical_json({"fingerprint": fingerprint, "options": {"audio": audio.digest()}})


def _prompt():
    class Letters:
        """The least tokenizer that Prompt works with."""

        eos_token_id, pad_token_id, bos_token_id = 0, 0, None

        def encode(self, text, **options):
            return list(text.encode())

        def convert_ids_to_tokens(self, ids):
            return [chr(i) for i in ids]

    return Prompt(Letters())
