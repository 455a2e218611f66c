"""Dataset directories of somebody who means harm: links in them, files in place of others, what they say of places."""

import tarfile
from dataclasses import replace

import pytest

from data_prep.build.build import BuildOptions, build
from data_prep.build.in_place import ForeignOptions, index_in_place
from data_prep.remote import objects as remote
from data_prep.rework.copying import merge
from data_prep.rework.upload import publish_directory
from data_prep.shards.opening import read_index
from data_prep.shards.tar import read_sample
from model.errors import UserError
from tests.data_prep.reading import check

OPTIONS = BuildOptions(shard_size=3)
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")


def test_published_is_what_the_index_lists_and_no_link(corpus, s3, tmp_path):
    root, secret = tmp_path / "local", tmp_path / "secret"
    build([replace(corpus[0], audio="/none"), *corpus[1:]], root, replace(OPTIONS, max_bad=0.5))
    secret.write_text("my key")
    (root / "notes.jsonl").symlink_to(secret)
    (root / "mine.jsonl").write_text("not of the dataset")
    publish_directory(root, f"{s3}/there")
    assert {name for name in remote.listing(f"{s3}/there") if not name.startswith("shard-")} == {
        *("index.json", "quarantine.jsonl")
    }
    for name in ("quarantine.jsonl", "shard-000001.tar", "shard-000001.idx.json", "index.json"):
        (root / name).rename(tmp_path / name)
        (root / name).symlink_to(tmp_path / name)
        with pytest.raises(UserError, match=rf"{root}/{name}.* link"):
            publish_directory(root, f"{s3}/{name}")
        assert not {name, "index.json"} & set(remote.listing(f"{s3}/{name}"))
        (tmp_path / name).replace(root / name)
    tar = root / "shard-000001.tar"
    tar.write_bytes(bytes(tar.stat().st_size))
    with pytest.raises(UserError, match=rf"{tar} has changed since it was made"):
        publish_directory(root, f"{s3}/changed")
    assert not {tar.name, "index.json"} & set(remote.listing(f"{s3}/changed"))


def test_a_merge_follows_no_link(tmp_path, corpus):
    two = tmp_path / "a", tmp_path / "b"
    for root, part in zip(two, (corpus[:7], corpus[7:]), strict=True):
        build(part, root, OPTIONS)
    for name in ("shard-000001.tar", "shard-000001.idx.json"):
        (two[1] / name).rename(tmp_path / name)
        (two[1] / name).symlink_to(tmp_path / name)
        with pytest.raises(UserError, match=rf"{two[1]}/{name} is no plain file"):
            merge(two, tmp_path / "m")
        (tmp_path / name).replace(two[1] / name)
    assert not (tmp_path / "m").exists()


@pytest.fixture
def in_place(tmp_path, corpus, s3):
    """The address of an index, without a copy on the disk, of a tar of others that lies beside it, and its folder."""
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars/set.tar", "w") as tar:
        for number, utterance in enumerate(corpus[:3]):
            (tmp_path / f"{number}.txt").write_text("words")
            tar.add(utterance.audio, f"{number}.flac")
            tar.add(tmp_path / f"{number}.txt", f"{number}.txt")
    index_in_place([tmp_path / "tars"], tmp_path / "local", ForeignOptions())
    remote.upload(tmp_path / "tars/set.tar", f"{s3}/tars/set.tar")
    for name in ("one", "two"):
        for path in (tmp_path / "local").iterdir():
            remote.upload(path, f"{s3}/{name}/{path.name}")
    return tmp_path / "local", s3


def test_metadata_beside_a_remote_index_are_those_it_was_made_with(in_place):
    local, s3 = in_place
    meta = local / "shard-000000.meta"
    remote.write_bytes(f"{s3}/one/{meta.name}", meta.read_bytes().replace(b"words", b"wrong"))
    with pytest.raises(UserError, match=rf"^{s3}/one: {meta.name} is not the file that shard-000000.idx"):
        read_index(f"{s3}/one")
    index = read_index(f"{s3}/two")
    assert [read_sample(index, i).meta["text"] for i in range(3)] == ["words"] * 3
    with pytest.raises(UserError, match=rf"^{s3}/one: {meta.name}"):  # the same index.json: what two has is not taken
        read_index(f"{s3}/one")
    assert check(local) == []
    meta.write_bytes(meta.read_bytes().replace(b'"meta":{', b'"mete":{', 1))
    assert any(line.startswith(f"{meta.name}: its bytes are not those") for line in check(local))


@pytest.mark.parametrize("source", ["s3://elsewhere/set.tar", "../../elsewhere/set.tar", "http://10.0.0.1/set.tar"])
def test_a_remote_index_names_no_tar_elsewhere(in_place, source):
    local, s3 = in_place
    document = (local / "index.json").read_bytes().replace(b"../tars/set.tar", source.encode())
    remote.write_bytes(f"{s3}/one/index.json", document)
    with pytest.raises(UserError, match=rf"^{s3}/one: its index names a tar that lies elsewhere, '{source}'"):
        read_index(f"{s3}/one")
