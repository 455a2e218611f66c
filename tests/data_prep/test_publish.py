"""Corpora and datasets at addresses: built from there, built to there, by builders that are killed or meet another."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.build import BuildOptions, build
from data_prep.importers.jsonl import import_jsonl
from data_prep.importers.options import ImportOptions
from data_prep.index import read_index
from data_prep.remote import objects as remote
from data_prep.remote import recordings as remote_recordings
from data_prep.remote.directory import publish_directory
from data_prep.remote.manifests import of_remote_manifest
from data_prep.remote.publish import staged
from data_prep.remote.recordings import AHEAD, read_ahead
from data_prep.shards import read_sample
from data_prep.sources import open_source
from data_prep.utterance import write_jsonl
from launch.command import main
from model.errors import UserError

ROOT = Path(__file__).parents[2]
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


def test_from_an_address_to_an_address_by_the_command(manifest, corpus, s3, storage, tmp_path, capsys):
    storage.statuses = [503]
    arguments = ["prep", "build", manifest, f"{s3}/out/", "--shard-size", "3", "--max-bad", "0.1"]
    assert main([*arguments, "--workers", "1"]) == 0
    said = capsys.readouterr()
    assert f"{s3}/out: 11 utterances" in said.out and "missing-audio 1" in said.out
    assert "retries of requests to remote storage" in said.err
    build(corpus[1:], tmp_path / "local", OPTIONS)
    index, local = read_index(f"{s3}/out"), read_index(tmp_path / "local")
    assert sorted(index.key) == sorted(local.key)
    here = {key: i for i, key in enumerate(local.key)}
    for i, key in enumerate(index.key):
        assert read_sample(index, i) == read_sample(local, here[key])
    (note,) = map(json.loads, remote.read_bytes(f"{s3}/out/quarantine.jsonl").splitlines())
    assert note["audio"] == f"{s3}/corpus/audio/utt 0.flac" and "there is no s3://" in note["message"]
    assert not list(Path(os.environ["SLAM_ASR_CACHE"], "staging").glob("*/"))
    assert main([*arguments, "--workers", "1"]) == 0
    assert "nothing done" in capsys.readouterr().out
    assert main([*arguments, "--workers", "1", "--seed", "1"]) == 2
    assert f"{s3}/out holds what was made with another seed" in capsys.readouterr().err


def test_the_bytes_are_those_of_a_local_build(corpus, s3, tmp_path):
    build(corpus, tmp_path / "local", OPTIONS)
    with staged(f"{s3}/out") as out:
        build(corpus, out, replace(OPTIONS, workers=2))
    names = sorted(path.name for path in (tmp_path / "local").iterdir())
    assert remote.listing(f"{s3}/out") == names and remote.listing(s3) == ["out"]
    for name in names:
        assert remote.read_bytes(f"{s3}/out/{name}") == (tmp_path / "local" / name).read_bytes()


def test_a_build_goes_on_from_another_machine(corpus, s3, storage, tmp_path):
    lost = [replace(corpus[0], audio="/none")] + corpus[1:]
    with (
        pytest.raises(UserError, match=rf"--max-bad 0.01 allows 0; see {s3}/out/quarantine.jsonl"),
        staged(f"{s3}/out", tmp_path / "one") as out,
    ):
        build(lost, out, replace(OPTIONS, shard_size=2))
    assert "index.json" not in remote.listing(f"{s3}/out") and "quarantine.jsonl" in remote.listing(f"{s3}/out")
    with pytest.raises(UserError, match=f"{s3}/out has no index.json"):
        read_index(f"{s3}/out")
    uploaded = [name for name in remote.listing(f"{s3}/out") if name.endswith(".tar")]
    assert uploaded and not list((tmp_path / "one").glob("*/*.tar"))
    with staged(f"{s3}/out", tmp_path / "two") as out:  # another disk: all it knows is at the address
        with (
            pytest.raises(UserError, match=f"another process of this machine is building {s3}/out"),
            staged(f"{s3}/out", tmp_path / "two"),
        ):
            pass
        totals = build(lost, out, replace(OPTIONS, shard_size=2, max_bad=0.5))
    assert totals.kept_shards >= len(uploaded) and totals.utterances == 11
    assert sum(storage.seen["PUT", f"/{s3[5:]}/out/{name}"] for name in uploaded) == len(uploaded)
    assert len(read_index(f"{s3}/out")) == 11


BUILD = """
import sys
from pathlib import Path
from data_prep.build import BuildOptions, build
from data_prep.remote.publish import staged
from data_prep.importers.jsonl import import_jsonl
from data_prep.importers.options import ImportOptions
with staged(sys.argv[2]) as out:
    build(import_jsonl(Path(sys.argv[1]), ImportOptions(allow_outside=True)), out, BuildOptions(shard_size=1))
"""


def test_a_killed_build_goes_on(corpus, s3, storage, tmp_path):
    write_jsonl(tmp_path / "m.jsonl", corpus)
    storage.held = "out/shard-000003.tar"
    killed = subprocess.Popen([sys.executable, "-c", BUILD, str(tmp_path / "m.jsonl"), f"{s3}/out"], cwd=ROOT)
    tar = f"/{s3[5:]}/out/shard-000003.tar"
    while not storage.seen["PUT", tar] and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    storage.held = ""
    with staged(f"{s3}/out") as out:
        totals = build(
            import_jsonl(tmp_path / "m.jsonl", ImportOptions(allow_outside=True)), out, BuildOptions(shard_size=1)
        )
    assert 3 <= totals.kept_shards < 12 and totals.utterances == 12
    index = read_index(f"{s3}/out")
    assert [read_sample(index, i).key for i in range(12)] == index.key


def test_a_second_builder_takes_over_and_the_first_stops(corpus, s3, tmp_path, monkeypatch):
    import data_prep.build

    add, second = data_prep.build._add, []

    def add_and_meet_another(*args):
        if not second:
            second.append(1)
            with staged(f"{s3}/out", tmp_path / "two") as out:
                assert build(corpus, out, OPTIONS).utterances == 12
        return add(*args)

    monkeypatch.setattr(data_prep.build, "_add", add_and_meet_another)
    with (
        pytest.raises(UserError, match=f"{s3}/out: .* builds there now; this build stops"),
        staged(f"{s3}/out", tmp_path / "one") as out,
    ):
        build(corpus, out, OPTIONS)
    assert len(read_index(f"{s3}/out")) == 12


def test_what_was_lost_at_the_address_is_built_again_and_stale_shards_go(corpus, s3, tmp_path):
    def again(options: BuildOptions):
        with staged(f"{s3}/out") as out:
            return build(corpus, out, options)

    again(replace(OPTIONS, shard_size=2))
    remote.remove(f"{s3}/out/shard-000002.tar")
    totals = again(replace(OPTIONS, shard_size=2))
    assert not totals.already_built and (totals.kept_shards, totals.shards) == (5, 6)
    assert again(replace(OPTIONS, shard_size=2)).already_built
    with pytest.raises(UserError, match=rf"{s3}/out holds what was made with another .*shard_size \(2, now 3\)"):
        again(OPTIONS)
    again(replace(OPTIONS, overwrite=True))
    assert [name for name in remote.listing(f"{s3}/out") if name.endswith(".tar")] == [
        f"shard-{number:06}.tar" for number in range(4)
    ]
    remote.remove(f"{s3}/out/index.json")
    with pytest.raises(UserError, match=f"{s3}/out holds shards whose index.json is gone"):
        again(OPTIONS)


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
