"""Remote datasets and the cache of their shards, against a real S3 server (object_storage.py)."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.build.build import BuildOptions, build
from data_prep.remote import objects as remote
from data_prep.shards import cache, opening
from data_prep.shards.index import ShardError
from data_prep.shards.opening import read_index, shard_path
from data_prep.shards.reader import read_batch
from data_prep.shards.tar import read_sample
from model.errors import UserError
from model.prompt import Prompt
from tests.data_prep.reading import read_wave
from tests.data_prep.shards.test_reader import Letters
from train.data.indexes import open_indexes

ROOT = Path(__file__).parents[3]
PROMPT = Prompt(Letters())
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")


@pytest.fixture
def dataset(tmp_path, corpus, s3):
    """(local directory, its copy in the bucket): twelve utterances in four shards."""
    build(corpus, tmp_path / "local", BuildOptions(shard_size=3))
    for path in (tmp_path / "local").iterdir():
        remote.upload(path, f"{s3}/data/{path.name}")
    return tmp_path / "local", f"{s3}/data"


def copies() -> list[Path]:
    return sorted(Path(os.environ["SLAM_ASR_CACHE"], "shards").iterdir())


def test_a_remote_dataset_is_the_local_one(dataset, storage):
    local, there = dataset
    here, index = read_index(local), read_index(f"{there}/")
    assert index.address == there and index.digest() == here.digest() and index.key == here.key
    assert not copies() and storage.gets("shard-000000.tar") == 0
    for i in range(len(index)):
        assert read_sample(index, i) == read_sample(here, i)
        assert (read_wave(index, i) == read_wave(here, i)).all()
    assert len(copies()) == 4 and all(storage.gets(shard.name) == 1 for shard in index.shards)
    gets = sum(storage.seen.values())
    assert read_index(there).digest() == here.digest() and sum(storage.seen.values()) == gets + 1  # index.json alone
    with pytest.raises(UserError, match=f"{there}/none .*index.json"):
        read_index(f"{there}/none")


def test_training_reads_from_a_cache_of_two_shards(dataset, storage, monkeypatch):
    local, there = dataset
    here, index = open_indexes([str(local)]), open_indexes([there])  # as data.train of a recipe
    assert not copies()
    largest = max(shard.bytes for shard in index.shards)
    monkeypatch.setenv("SLAM_ASR_CACHE_GB", repr(2 * largest / 1e9))
    monkeypatch.setattr(cache, "YOUNG_SECONDS", 0.05)
    most, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            with suppress(FileNotFoundError), cache.cache_folder().locked():  # while nothing is removed or begun
                statuses = [path.stat() for path in copies()]  # a copy that is renamed may be met twice
                most[0] = max(most[0], sum({status.st_ino: status.st_size for status in statuses}.values()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    rng = np.random.default_rng(0)
    batches = [rng.permutation(12)[:4].tolist() for _ in range(12)]
    with ThreadPoolExecutor(3) as pool:  # more threads than shards fit
        read = list(pool.map(lambda ids: read_batch(index, ids, PROMPT), batches))
    stop.set()
    watcher.join()
    most[0] = max(most[0], sum(path.stat().st_size for path in copies()))
    for ids, batch in zip(batches, read, strict=True):
        wanted = read_batch(here, ids, PROMPT)
        assert batch.keys == wanted.keys and batch.texts == wanted.texts
        assert batch.audio is not None and wanted.audio is not None and torch.equal(batch.audio, wanted.audio)
    assert largest < most[0] <= 2 * largest and len(copies()) <= 2
    assert sum(storage.gets(Path(shard.name).name) for shard in index.shards) > 4


def test_a_shard_larger_than_the_cache_is_refused(dataset, monkeypatch):
    monkeypatch.setenv("SLAM_ASR_CACHE_GB", "0.000001")
    with pytest.raises(UserError, match=r"1,000;.*SLAM_ASR_CACHE_GB"):
        read_sample(read_index(dataset[1]), 0)
    monkeypatch.setenv("SLAM_ASR_CACHE_GB", "much")
    with pytest.raises(UserError, match="SLAM_ASR_CACHE_GB is 'much'"):
        read_sample(read_index(dataset[1]), 0)


READ_ALL = """
import sys
from data_prep.shards.opening import read_index
from data_prep.shards.tar import read_sample
index = read_index(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(sum(len(read_sample(index, i).media) for i in range(len(index))))
"""


def test_processes_share_one_copy(dataset, storage):
    local, there = dataset
    command = [sys.executable, "-c", READ_ALL, there]
    readers = [subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=-1, text=True) for _ in range(2)]
    for reader in readers:
        assert reader.stdout and reader.stdout.readline() == "ready\n"
    answers = [reader.stdin.write("\n") or reader.stdin.flush() for reader in readers if reader.stdin]
    answers = [int(reader.communicate()[0]) for reader in readers]
    index = read_index(local)
    assert answers == [int(index.length.sum())] * 2
    assert [storage.gets(shard.name) for shard in index.shards] == [1] * 4


def test_a_copy_damaged_on_the_disk_is_made_anew(dataset, storage):
    index = read_index(dataset[1])
    before = read_sample(index, 0)
    path = shard_path(index, int(index.shard[0]))
    data = bytearray(path.read_bytes())
    data[int(index.offset[0]) + 100] ^= 1
    path.write_bytes(data)
    assert read_sample(index, 0) == before and storage.gets(index.shards[0].name) == 2
    path.write_bytes(data[:1000])
    assert read_sample(index, 0) == before and storage.gets(index.shards[0].name) == 3


def test_what_is_damaged_on_the_way_is_asked_for_again(dataset, storage):
    index = read_index(dataset[1])
    storage.damaged = ["shard-000000.tar"] * 2
    assert read_sample(index, 0) == read_sample(read_index(dataset[0]), 0)
    assert storage.gets("shard-000000.tar") == 3 and not storage.damaged


def test_an_object_that_is_another_is_named_and_not_asked_for_again_and_again(dataset, storage):
    local, there = dataset
    index = read_index(there)
    data = bytearray((local / "shard-000000.tar").read_bytes())
    data[len(data) // 2] ^= 1
    remote.write_bytes(f"{there}/shard-000000.tar", bytes(data))
    for _ in range(3):
        with pytest.raises(ShardError, match=rf"^{there}/shard-000000.tar .*sha256"):
            read_sample(index, 0)
    assert storage.gets("shard-000000.tar") == 2 and not copies()
    remote.remove(f"{there}/shard-000001.tar")
    with pytest.raises(ShardError, match=rf"{there}/shard-000001.tar"):
        read_sample(index, 3)
    remote.write_bytes(f"{there}/shard-000000.idx.json", b"{}")
    (Path(os.environ["SLAM_ASR_CACHE"]) / "indexes").rename(Path(os.environ["SLAM_ASR_CACHE"]) / "old")
    with pytest.raises(UserError, match=rf"^{there}: shard-000000.idx.json .*index.json"):
        read_index(there)


def test_what_killed_processes_left_is_removed_and_what_is_being_made_is_not(dataset):
    index = read_index(dataset[1])
    folder = cache.cache_folder()
    dead, alive = (folder.path / "shards" / f"{digit * 64}.1-2.tmp" for digit in "de")
    for path in (dead, alive):
        path.write_bytes(b"x")
        os.utime(path, (1, 1))
    with open(alive) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        read_sample(index, 0)
    assert alive.exists() and not dead.exists()


def test_files_of_other_names_stay_and_do_not_count(dataset, monkeypatch):
    index = read_index(dataset[1])
    shards, indexes = (cache.cache_folder().path / name for name in ("shards", "indexes"))
    mine = [shards / "corpus.tar", shards / f"{'A' * 64}.tar", shards / "work.1-2.tmp", indexes / "own"]
    for path in mine[:3]:
        path.write_bytes(bytes(1_000_000))
    mine[3].mkdir()
    for path in mine:
        os.utime(path, (1, 1))
    monkeypatch.setenv("SLAM_ASR_CACHE_GB", repr(max(shard.bytes for shard in index.shards) / 1e9))
    monkeypatch.setattr(cache, "YOUNG_SECONDS", 0.0)
    monkeypatch.setattr(opening, "INDEX_FOLDERS", 0)
    for i in range(len(index)):
        read_sample(index, i)
    opening._forget_old_indexes(indexes)
    assert all(path.exists() for path in mine) and len(copies()) == 4 and list(indexes.iterdir()) == [mine[3]]


@pytest.mark.parametrize("name", ["", "shards", "locks", "indexes"])
def test_a_cache_that_others_could_have_filled_is_not_used(dataset, monkeypatch, tmp_path, name):
    root = tmp_path / "own"
    folder = root / name
    monkeypatch.setenv("SLAM_ASR_CACHE", str(root))
    folder.mkdir(parents=True)
    for mode in (0o775, 0o757):
        folder.chmod(mode)
        with pytest.raises(UserError, match=rf"{folder}: .*mode {mode:o}"):
            read_index(dataset[1])
    folder.rmdir()
    (tmp_path / "theirs").mkdir(exist_ok=True)
    folder.symlink_to(tmp_path / "theirs")
    with pytest.raises(UserError, match=rf"{folder}: .*link"):
        read_index(dataset[1])
    folder.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
        with pytest.raises(UserError, match=rf"user {tmp_path.stat().st_uid}"):
            read_index(dataset[1])
    read_sample(read_index(dataset[1]), 0)
    assert {path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir()) if path.is_dir()} == {0o700}


def test_no_link_is_followed_where_copies_lie(dataset, tmp_path):
    index = read_index(dataset[1])
    before, (path,) = read_sample(index, 0), copies()
    other = tmp_path / "other"
    path.rename(other)
    path.symlink_to(other)
    other.write_bytes(bytes(index.shards[0].bytes))
    assert shard_path(index, 0) == path and not path.is_symlink() and read_sample(index, 0) == before
    shutil.rmtree(path.parents[1] / "locks")
    path.unlink()
    lock = path.parents[1] / "locks" / f"{int(index.shards[0].sha256[:8], 16) % cache.LOCKS:03}"
    lock.parent.mkdir(mode=0o700)
    lock.symlink_to(tmp_path / "new")
    with pytest.raises(UserError, match="symbolic links"):
        shard_path(index, 0)
    assert not (tmp_path / "new").exists()


def test_shards_are_fetched_ahead(dataset, storage):
    index = read_index(dataset[1])
    cache.prefetch(index, [2, 3])
    for _ in range(60_000):
        if len([path for path in copies() if path.suffix == ".tar"]) == 2:
            break
        threading.Event().wait(0.01)
    gets = sum(storage.seen.values())
    assert shard_path(index, 2).stat().st_size == index.shards[2].bytes and shard_path(index, 3)
    assert sum(storage.seen.values()) == gets


def test_a_full_disk_is_said_in_a_line_and_leaves_nothing(dataset, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    index = read_index(dataset[1])
    with monkeypatch.context() as patch:
        patch.setattr(cache, "pieces", full)
        with pytest.raises(
            UserError,
            match=rf"{index.shards[0].bytes:,} bytes .*{os.environ['SLAM_ASR_CACHE']}.*No space left on device",
        ):
            read_sample(index, 0)
    assert not copies() and read_sample(index, 0).key == index.key[0]
    (Path(os.environ["SLAM_ASR_CACHE"]) / "file").write_bytes(b"")
    monkeypatch.setenv("SLAM_ASR_CACHE", os.environ["SLAM_ASR_CACHE"] + "/file")
    with pytest.raises(UserError, match="/file.*: Not a directory; .*SLAM_ASR_CACHE"):
        read_index(dataset[1])
