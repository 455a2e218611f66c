"""Corpora at addresses, read from there; datasets, published to there."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.build.build import BuildOptions, build
from data_prep.importers.table import import_jsonl
from data_prep.recordings import open as remote_recordings
from data_prep.recordings.open import AHEAD, open_source, read_ahead
from data_prep.remote import objects as remote
from data_prep.rework.upload import publish_directory
from data_prep.shards.opening import read_index
from data_prep.shards.tar import read_sample
from data_prep.utterance import write_jsonl
from launch.command import main
from launch.prep.corpus import of_remote_manifest
from model.errors import UserError

ROOT = Path(__file__).parents[3]
OPTIONS = BuildOptions(shard_size=3)
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")


@pytest.fixture
def manifest(corpus, s3, tmp_path):
    """Address of a manifest with eleven recordings beside it and one that is not there."""
    for utterance in corpus[1:]:
        remote.upload(Path(utterance.audio), f"{s3}/corpus/audio/{Path(utterance.audio).name}")
    write_jsonl(tmp_path / "m.jsonl", [replace(u, audio=f"{tmp_path}/audio/{Path(u.audio).name}") for u in corpus])
    remote.upload(tmp_path / "m.jsonl", f"{s3}/corpus/m.jsonl")
    return f"{s3}/corpus/m.jsonl"


def test_a_corpus_at_an_address_is_built_here_and_published(manifest, corpus, s3, storage, tmp_path, capsys):
    storage.statuses = [503]
    arguments = ["prep", "build", manifest, str(tmp_path / "out"), "--shard-size", "3", "--max-bad", "0.1"]
    assert main([*arguments, "--workers", "1"]) == 0
    said = capsys.readouterr()
    assert "11 utterances" in said.out and "missing-audio 1" in said.out
    assert re.search(r"[0-9]+ retr(y|ies) of requests to remote storage", said.err)
    assert main(["prep", "publish", str(tmp_path / "out"), f"{s3}/out"]) == 0
    build(corpus[1:], tmp_path / "local", OPTIONS)
    index, local = read_index(f"{s3}/out"), read_index(tmp_path / "local")
    assert sorted(index.key) == sorted(local.key)
    here = {key: i for i, key in enumerate(local.key)}
    for i, key in enumerate(index.key):
        assert read_sample(index, i) == read_sample(local, here[key])
    (note,) = map(json.loads, remote.read_bytes(f"{s3}/out/quarantine.jsonl").splitlines())
    assert note["audio"] == f"{s3}/corpus/audio/utt 0.flac" and "there is no s3://" in note["message"]
    assert main(["prep", "build", manifest, f"{s3}/else"]) == 2
    assert "write to a folder here, then slam-asr prep publish" in capsys.readouterr().err


def test_a_finished_directory_is_published_and_goes_on_where_it_stopped(corpus, s3, storage, tmp_path, capsys):
    build(corpus, tmp_path / "local", OPTIONS)
    assert main(["prep", "publish", str(tmp_path / "local"), f"{s3}/there"]) == 0
    assert read_index(f"{s3}/there").digest() == read_index(tmp_path / "local").digest()
    remote.remove(f"{s3}/there/index.json")
    remote.remove(f"{s3}/there/shard-000001.tar")
    assert publish_directory(tmp_path / "local", f"{s3}/there") == 1
    build(corpus[1:], tmp_path / "other", OPTIONS)
    assert main(["prep", "publish", str(tmp_path / "other"), f"{s3}/there"]) == 2
    assert f"{s3}/there holds another dataset" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "other")


def test_a_remote_manifest_reads_what_lies_beside_it_and_no_folder(manifest, s3, tmp_path):
    found = list(of_remote_manifest(manifest, import_jsonl))
    assert found[1].audio == f"{s3}/corpus/audio/utt 1.flac" and len(found) == 12
    remote.write_bytes(f"{s3}/corpus/bad.jsonl", b'{"key": "a", "audio": "../../etc/passwd", "text": "x"}')
    with pytest.raises(UserError, match=f"^{s3}/corpus/bad.jsonl:1: audio '../../etc/passwd' leaves the manifest's"):
        list(of_remote_manifest(f"{s3}/corpus/bad.jsonl", import_jsonl))
    with pytest.raises(UserError, match=f"there is no object {s3}/corpus; give the address of a manifest"):
        list(of_remote_manifest(f"{s3}/corpus", import_jsonl))


def test_recordings_are_read_ahead(manifest, storage):
    utterances = list(of_remote_manifest(manifest, import_jsonl))[1:]
    storage.seconds = 0.1
    found = [open_source(utterance.audio) for utterance in read_ahead(utterances)]
    assert 4 <= storage.most <= AHEAD
    storage.seconds = 0.0
    assert found == [remote.read_bytes(utterance.audio) for utterance in utterances]
    assert not remote_recordings._coming
