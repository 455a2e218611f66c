import errno
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_prep.build.build import BuildOptions, build
from data_prep.durable import canonical_json
from data_prep.features import encoding as feature_encoding
from data_prep.features.build import SPEED_NAME, FeatureRank, build_features
from data_prep.features.writer import LOCK_NAME, FeatureWriter
from data_prep.inspect.stats import table
from data_prep.rework.joined import concatenate
from data_prep.shards.frames import EXTENSIONS, FEATURE_DTYPES
from data_prep.shards.opening import read_index, shard_path
from data_prep.shards.reader import frames, read_batch
from data_prep.shards.tar import ShardWriter, read_sample, walk
from model.batch import quantise
from model.encoders import load_encoder
from model.errors import UserError
from tests.data_prep.reading import check, read_utterance, read_wave
from tests.data_prep.shards.test_reader import PROMPT
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


def test_two_jobs_with_one_directory_do_not_overwrite_each_others_shards(tmp_path, audio, encoder):
    given = (tmp_path / "features", audio, encoder.fingerprint())
    with FeatureWriter(*given) as one, FeatureWriter(*given) as other:
        for writer, key in ((one, audio.key[0]), (other, audio.key[1])):
            writer.add(key, torch.zeros(3, encoder.dim))
        other.flush()
    assert FeatureWriter(*given).has(audio.key[0]) and FeatureWriter(*given).has(audio.key[1])


def test_a_key_that_two_directories_have_is_refused(tmp_path, audio, encoder):
    with pytest.raises(UserError, match="key utt-.. is there twice in the audio; .*--prefix-keys"):
        build_features(concatenate([audio, audio]), encoder, tmp_path / "features")


@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_cached_frames_are_the_encoders_own(tmp_path, audio, encoder, dtype):
    run = build_features(audio, encoder, tmp_path / "features", dtype)
    index = read_index(tmp_path / "features")
    assert (index.key, index.kind) == (audio.key, "features")
    assert np.array_equal(index.shard, audio.shard) and np.array_equal(index.samples, audio.samples)
    assert index.fingerprint == encoder.fingerprint() | {"feature_dtype": dtype}
    assert run.totals is not None and run.totals.frames == index.frames.sum() and run.utterances == len(audio)
    assert np.array_equal(index.frames, encoder.out_len(audio.samples))
    assert check(tmp_path / "features") == [] and f"feature_dtype {dtype}" in table(index)
    batch = read_batch(index, [3], PROMPT)
    wave = read_wave(audio, 3)
    frames, _ = encoder(wave, torch.tensor([0, len(wave)]))
    assert batch.features is not None
    kept = quantise(frames) if dtype == "int8" else frames.to(getattr(torch, dtype))
    assert torch.equal(batch.features, kept) and index.length[3] == kept.nbytes
    assert read_utterance(index, 3).text == read_utterance(audio, 3).text
    assert f"{audio.key[3]}.{EXTENSIONS[dtype]}" in [name for name, _, _ in walk(shard_path(index, 0))]


def test_the_bytes_follow_neither_from_threads_nor_from_groups(tmp_path, audio, encoder, monkeypatch):
    build_features(audio, encoder, tmp_path / "one", rank=FeatureRank(threads=1))
    monkeypatch.setitem(feature_encoding.GROUP_UTTERANCES, "cpu", 3)
    monkeypatch.setitem(feature_encoding.GROUP_SECONDS, "cpu", 0.9)
    build_features(audio, encoder, tmp_path / "many", rank=FeatureRank(threads=3))
    assert files(tmp_path / "one") == files(tmp_path / "many") and len(files(tmp_path / "one")) == 7


def test_a_long_utterance_is_a_group_of_its_own_and_read_with_nothing_beside_it(audio, encoder, monkeypatch):
    monkeypatch.setitem(feature_encoding.GROUP_SECONDS, "cpu", 0.5)
    groups = list(feature_encoding.grouped(audio, range(len(audio)), torch.device("cpu")))
    assert [i for ids, _ in groups for i in ids] == list(range(len(audio)))
    assert all(seconds <= 0.5 or len(ids) == 1 for ids, seconds in groups) and any(s > 0.5 for _, s in groups)
    monkeypatch.setitem(feature_encoding.GROUP_SECONDS, "cpu", 0.1)  # all are too long: no two at a time
    busy, most, encode = [], [], feature_encoding._encode

    def watched(*given):
        busy.append(given)
        most.append(len(busy))
        time.sleep(0.01)
        found = encode(*given)
        busy.pop()
        return found

    monkeypatch.setattr(feature_encoding, "_encode", watched)
    assert len(list(feature_encoding.encode_in_order(audio, encoder, "float16", range(len(audio)), 4))) == len(audio)
    assert max(most) == 1


def test_both_kinds_of_index_give_the_same_batch_but_for_the_speech(tmp_path, audio, encoder):
    build_features(audio, encoder, tmp_path / "features")
    ids = [7, 0, 4]
    heard, cached = (read_batch(index, ids, PROMPT) for index in (audio, read_index(tmp_path / "features")))
    assert heard.keys == cached.keys == tuple(audio.key[i] for i in ids)
    assert heard.texts == cached.texts and torch.equal(heard.targets, cached.targets)
    assert heard.audio_cu.diff().tolist() == audio.samples[ids].tolist()
    assert cached.feature_cu.diff().tolist() == encoder.out_len(audio.samples[ids]).tolist()


def test_a_group_that_does_not_fit_the_device_is_halved_and_one_that_never_does_is_named(
    tmp_path, audio, encoder, monkeypatch
):
    build_features(audio, encoder, tmp_path / "roomy")
    whole, room = encoder.forward, [2]

    def forward(samples, cu):
        if len(cu) - 1 > room[0]:
            raise torch.OutOfMemoryError
        return whole(samples, cu)

    monkeypatch.setattr(encoder, "forward", forward)
    build_features(audio, encoder, tmp_path / "tight")
    assert files(tmp_path / "tight") == files(tmp_path / "roomy")
    room[0] = 0
    with pytest.raises(UserError, match="utterance utt-.* of [01] s needs more memory than the device has"):
        build_features(audio, encoder, tmp_path / "none")


def test_a_broken_off_feature_build_goes_on_to_the_same_bytes(tmp_path, audio, encoder):
    out = tmp_path / "features"
    build_features(audio, encoder, out)
    before = files(out)
    again = build_features(audio, encoder, out).totals
    assert again is not None and again.already_built
    for name in ("index.json", "shard-000001.idx.json"):
        (out / name).unlink()
    made_of = {
        "fingerprint": encoder.fingerprint() | {"feature_dtype": "float16"},
        "options": {"audio": audio.digest()},
    }
    (out / ".unfinished.json").write_bytes(canonical_json(made_of))
    (out / ".shard-000001.tar.elsewhere.77.tmp").write_bytes(b"what a killed rank left")
    run = build_features(audio, encoder, out)
    assert (run.kept_shards, run.utterances) == (2, 5) and files(out) == before
    assert sorted(path.name for path in out.iterdir() if path.name.startswith(".")) == []


def test_what_training_wrote_is_kept_and_only_the_rest_is_encoded(tmp_path, audio, encoder):
    out = tmp_path / "features"
    build_features(audio, encoder, tmp_path / "whole")
    whole = read_index(tmp_path / "whole")
    for rank, ids in enumerate(([9, 2, 4], [7, 0])):
        with FeatureWriter(out, audio, encoder.fingerprint(), rank=rank, size=2) as writer:
            for i in ids:
                assert not writer.has(audio.key[i])
                writer.add(audio.key[i], frames(whole, i, read_sample(whole, i)))
                assert writer.has(audio.key[i])
                if i == 4:
                    writer.flush()
    with pytest.raises(ZeroDivisionError), FeatureWriter(out, audio, encoder.fingerprint()) as writer:
        writer.add(audio.key[1], frames(whole, 1, read_sample(whole, 1)))
        raise ZeroDivisionError  # what was not published is not there
    assert not (out / "index.json").exists()
    run = build_features(audio, encoder, out)
    assert run.utterances == len(audio) - 5 and run.totals is not None
    index = read_index(out)
    assert sorted(index.key) == sorted(audio.key) and check(out) == []
    for j, key in enumerate(index.key):
        i = audio.key.index(key)
        assert read_sample(index, j) == read_sample(whole, i)


def test_a_shard_of_other_audio_does_not_count(tmp_path, audio, encoder, corpus):
    out = tmp_path / "features"
    build_features(audio, encoder, out)
    changed = [replace(corpus[0], text="other words"), *corpus[1:]]
    build(changed, tmp_path / "changed", BuildOptions(shard_size=5))
    run = build_features(read_index(tmp_path / "changed"), encoder, out, overwrite=True)
    assert run.kept_shards == 2 and 0 < run.utterances <= 5
    build_features(read_index(tmp_path / "changed"), encoder, tmp_path / "fresh")
    assert files(out) == files(tmp_path / "fresh")


def test_another_encoder_or_other_audio_is_refused(tmp_path, audio, encoder, models, corpus):
    build_features(audio, encoder, tmp_path / "features")
    with pytest.raises(UserError, match=r"another layer \(2, now 1\)"):
        build_features(audio, load_encoder(str(models[0]), layer=1), tmp_path / "features")
    build([replace(corpus[0], text="other")], tmp_path / "other", BuildOptions())
    with pytest.raises(UserError, match="features of other audio"):
        build_features(read_index(tmp_path / "other"), encoder, tmp_path / "features")
    with pytest.raises(UserError, match="an encoder needs audio"):
        build_features(read_index(tmp_path / "features"), encoder, tmp_path / "twice")
    with pytest.raises(UserError, match="holds the audio itself"):
        build_features(audio, encoder, audio.root, overwrite=True)
    with pytest.raises(UserError, match="feature dtype 'int4'"):
        build_features(audio, encoder, tmp_path / "new", "int4")
    assert not (tmp_path / "new").exists() and not (tmp_path / "features" / LOCK_NAME).exists()


def test_two_jobs_in_one_directory_are_refused(tmp_path, audio, encoder, models, corpus):
    out, other = tmp_path / "features", load_encoder(str(models[0]), layer="mean")
    with FeatureWriter(out, audio, encoder.fingerprint()):
        with pytest.raises(UserError, match="another layer"):
            build_features(audio, other, out)
        with pytest.raises(UserError, match="another process is building"):
            build_features(audio, other, out, overwrite=True)
        with pytest.raises(UserError, match="another process is building"):
            build(corpus, out, BuildOptions())
    assert build_features(audio, other, out, overwrite=True).utterances == len(audio)


@pytest.mark.parametrize(
    "dtype, scale, message",
    [
        ("float16", 1e6, "reach 1e.06, more than float16 .*--feature-dtype bfloat16"),
        ("int8", 1e9, "reach 1e.09, more than int8 .*--feature-dtype bfloat16"),
        ("bfloat16", torch.nan, "not finite .* in float32; compute with --dtype float32"),
    ],
)
def test_frames_that_cannot_be_kept_are_refused_with_the_way_out(
    tmp_path, audio, encoder, monkeypatch, dtype, scale, message
):
    quiet = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda audio, cu: (quiet(audio, cu)[0] * 0 + scale, quiet(audio, cu)[1]))
    with pytest.raises(UserError, match=f"utterance utt-.*{message}"):
        build_features(audio, encoder, tmp_path / "features", dtype)
    assert not list((tmp_path / "features").glob("*shard*"))


def test_a_full_disk_keeps_what_is_finished_and_says_how_much_is_missing(tmp_path, audio, encoder, monkeypatch):
    out, write, written = tmp_path / "features", ShardWriter._write, [0]

    def filling(self, data):
        written[0] += len(data)
        if written[0] > 40_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, data)

    monkeypatch.setattr(ShardWriter, "_write", filling)
    with pytest.raises(UserError, match="no space left for .*features: .* are free; finished shards stay valid"):
        build_features(audio, encoder, out)
    monkeypatch.undo()
    assert sorted(path.name for path in out.glob("*.tar")) == ["shard-000000.tar"]
    assert build_features(audio, encoder, out).kept_shards == 1


def files(folder):
    """The bytes of all but what differs from run to run."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != SPEED_NAME}
