import json
import os
import tarfile
import threading

import numpy as np
import pytest
from webdataset.compat import WebDataset

from data_prep.build.build import BuildOptions, build
from data_prep.shards import tar as shards
from data_prep.shards.index import ShardError, columns_path
from data_prep.shards.opening import read_index, shard_path
from data_prep.shards.tar import OpenFiles, ShardWriter, read_sample, walk
from model.errors import UserError
from tests.data_prep.reading import check


@pytest.fixture
def out(tmp_path, corpus):
    build(corpus, tmp_path / "out", BuildOptions(shard_size=5))
    return tmp_path / "out"


UNCLOSED = pytest.mark.filterwarnings(  # webdataset leaves its files to the garbage collector
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@UNCLOSED
def test_tar_and_webdataset_read_the_same(out):
    index = read_index(out)
    with tarfile.open(out / "shard-000000.tar", "r:") as tar:
        members = tar.getmembers()
        assert all(m.isreg() and m.mtime == m.uid == m.gid == 0 and not m.pax_headers for m in members)
        assert [m.name for m in members[:2]] == [f"{index.key[0]}.flac", f"{index.key[0]}.json"]
    tars = [str(path) for path in sorted(out.glob("*.tar"))]
    samples = list(WebDataset(tars, shardshuffle=False, nodesplitter=None))
    assert [sample["__key__"] for sample in samples] == index.key
    for i, sample in enumerate(samples):
        assert sample["flac"] == read_sample(index, i).media
        assert json.loads(sample["json"]) == read_sample(index, i).meta


def test_a_truncated_tar_is_refused_and_mended_by_building_again(out, corpus):
    path = out / "shard-000001.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:1024])
    with pytest.raises(UserError, match=rf"1,024 bytes.* {len(whole):,};.*prep check {out}"):
        read_index(out)
    assert [problem.split(":")[0] for problem in check(out)] == ["shard-000001.tar"]
    path.unlink()
    assert "missing" in check(out)[0]
    assert build(corpus, out, BuildOptions(shard_size=5)).kept_shards == 2
    assert path.read_bytes() == whole


def test_a_flipped_byte_is_detected_wherever_it_is(out):
    index = read_index(out)
    path = shard_path(index, 0)
    whole = path.read_bytes()
    offset, meta_offset = int(index.offset[1]), int(index.meta_offset[1])
    for position in (offset - 512, offset - 400, offset, offset + 700, meta_offset - 500, meta_offset, meta_offset + 9):
        changed = bytearray(whole)
        changed[position] ^= 1
        path.write_bytes(changed)
        problems = check(out)
        assert any("sha256" in problem for problem in problems), position
        if position not in (offset - 400,):  # the header's mode: no one's data
            with pytest.raises(ShardError, match=f"utterance {index.key[1]}.*prep check"):
                read_sample(index, 1)
        assert read_sample(index, 2).key == index.key[2]


def test_walk_refuses_tars_of_other_programs(tmp_path):
    for number, (name, kind) in enumerate([("../../x", b"0"), ("a", b"2"), ("a", b"S"), ("/etc/x", b"0")]):
        info = tarfile.TarInfo(name)
        info.type, info.size, info.linkname = kind, 0, "b" if kind == b"2" else ""
        info.mtime = 1 if kind == b"0" else 0
        path = tmp_path / f"{number}.tar"
        path.write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
        with pytest.raises(ValueError, match="byte 0"):
            list(walk(path))
    (tmp_path / "big.tar").write_bytes(tarfile.TarInfo("a").tobuf(tarfile.USTAR_FORMAT)[:124] + b"7" * 11 + bytes(377))
    with pytest.raises(ValueError):
        list(walk(tmp_path / "big.tar"))
    (tmp_path / "random.tar").write_bytes(np.random.default_rng(0).bytes(4096))
    with pytest.raises(ValueError):
        list(walk(tmp_path / "random.tar"))


def test_many_threads_share_few_open_files(out, monkeypatch):
    index = read_index(out)
    monkeypatch.setattr(shards, "_OPEN", OpenFiles(1))
    expected = [read_sample(index, i).media for i in range(len(index))]
    failures = []

    def read(seed):
        for i in np.random.default_rng(seed).integers(0, len(index), 300):
            if read_sample(index, int(i)).media != expected[i]:
                failures.append(i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not failures and len(shards._OPEN._files) <= 1


def vanish(path):
    path.unlink()


def truncate(path):
    os.truncate(path, 700)


def overwrite(path):
    path.write_bytes(bytes(path.stat().st_size))


def become_a_folder(path):
    path.unlink()
    path.mkdir()


def fail_in_the_device(path):
    path.unlink()
    path.symlink_to("/proc/self/mem")  # Linux answers EIO for an address where nothing is


@pytest.mark.parametrize(
    "damage, reason",
    [
        (vanish, "No such file"),
        (truncate, "[0-9,]+ bytes too early"),
        (overwrite, "byte [0-9,]+ .*''"),
        (become_a_folder, "Is a directory"),
        (fail_in_the_device, "Input/output error"),
    ],
)
def test_a_read_error_names_the_shard_and_the_next_read_opens_it_anew(out, monkeypatch, damage, reason):
    monkeypatch.setattr(shards, "_OPEN", OpenFiles(4))
    index = read_index(out)
    path = shard_path(index, 0)
    os.rename(path, out / "aside")
    path.write_bytes((out / "aside").read_bytes())
    damage(path)
    for _ in range(2):
        with pytest.raises(ShardError, match=f"{path.name}, utterance {index.key[1]}: .*{reason}.*prep check {out}"):
            read_sample(index, 1)
    if path.is_dir():
        path.rmdir()
    os.replace(out / "aside", path)
    assert read_sample(index, 1).key == index.key[1]


def test_an_open_file_is_read_after_its_path_is_gone_or_names_another(out, monkeypatch):
    monkeypatch.setattr(shards, "_OPEN", OpenFiles(4))
    index = read_index(out)
    before = read_sample(index, 1)
    shard_path(index, 0).unlink()
    assert read_sample(index, 1) == before
    shard_path(index, 0).write_bytes(b"of another corpus")
    assert read_sample(index, 1) == before


def test_short_reads_are_continued(out, monkeypatch):
    index = read_index(out)
    whole, read = read_sample(index, 3), os.preadv
    monkeypatch.setattr(shards.os, "preadv", lambda file, parts, position: read(file, [parts[0][:1000]], position))
    assert read_sample(index, 3) == whole


def test_columns_of_a_replaced_tar_are_removed_before_it(tmp_path, monkeypatch):
    meta = {"text": "a", "seconds": 0.1, "language": "", "speaker": "", "task": "", "meta": {}}
    path = tmp_path / "shard-000000.tar"

    def full(*_):
        raise OSError(28, "No space left on device")

    with ShardWriter(path) as writer:
        writer.add("a", "flac", b"one", meta, 1600)
        writer.close()
    monkeypatch.setattr("data_prep.shards.tar.write_durably", full)
    with ShardWriter(path) as writer, pytest.raises(OSError):
        writer.add("a", "flac", b"two", meta, 1600)
        writer.close()
    assert path.exists() and not columns_path(path).exists()
