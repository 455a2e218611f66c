import errno
from dataclasses import replace

import pytest

from data_prep.build.build import BuildOptions, build
from data_prep.build.in_place import ForeignOptions, index_in_place
from data_prep.features.writer import join
from data_prep.rework.copying import merge
from data_prep.shards.opening import read_index
from model.errors import UserError
from tests.data_prep.build.test_build import contents
from tests.data_prep.reading import check

OPTIONS = BuildOptions(shard_size=5)


def test_shards_of_others_are_not_overwritten(tmp_path, corpus):
    (tmp_path / "shard-000000.tar").write_bytes(b"precious")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="not made here; give another directory$"):
            build(corpus, tmp_path, replace(OPTIONS, overwrite=overwrite))
    assert (tmp_path / "shard-000000.tar").read_bytes() == b"precious"


def test_the_tars_that_a_corpus_is_read_from_are_not_replaced(tmp_path, corpus):
    build(corpus, tmp_path / "out", OPTIONS)
    tar, index = tmp_path / "out" / "shard-000000.tar", read_index(tmp_path / "out")
    part, before = f"bytes:{index.offset[0]}:{index.length[0]}", contents(tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for audio in (tar, tmp_path / "link" / tar.name):
        given = replace(corpus[0], audio=str(audio), part=part)
        with pytest.raises(UserError, match="holds shard-000000.tar, which the corpus is read from"):
            build([given], tmp_path / "out", replace(OPTIONS, overwrite=True))
    assert contents(tmp_path / "out") == before
    assert build([given], tmp_path / "elsewhere", OPTIONS).utterances == 1


@pytest.mark.parametrize("name", ["index.json", ".unfinished.json"])
def test_what_an_accident_left_half_written_is_got_out_of_and_shards_are_kept(tmp_path, corpus, name):
    out = tmp_path / "out"
    build(corpus, out, OPTIONS)
    before = contents(out)
    (out / "index.json").unlink()
    (out / name).write_text('{"format": "slam-')
    with pytest.raises(UserError, match=r"cannot read .*--overwrite: finished shards are kept"):
        build(corpus, out, OPTIONS)
    if name == "index.json":
        with pytest.raises(UserError, match=r"cannot read .*--overwrite: finished shards are kept"):
            check(out)
    assert build(corpus, out, replace(OPTIONS, overwrite=True)).kept_shards == 3 and contents(out) == before
    (out / "index.json").unlink()
    with pytest.raises(UserError, match="shards whose index.json is gone; .*--overwrite"):
        build(corpus, out, OPTIONS)
    (out / "index.json").write_text('{"wids_version": 1}')
    with pytest.raises(UserError, match="index.json was not made here"):
        build(corpus, out, replace(OPTIONS, overwrite=True))


def test_a_file_that_may_not_be_read_is_no_case_for_the_check(tmp_path, corpus, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied")

    build(corpus, tmp_path / "out", OPTIONS)
    monkeypatch.setattr("data_prep.shards.opening.read_regular", refuse)
    with pytest.raises(UserError, match="Permission denied") as error:
        read_index(tmp_path / "out")
    assert "prep check" not in str(error.value)


def test_what_another_kind_of_builder_made_is_named(tmp_path, corpus):
    for name in ("one", "two"):
        build([replace(utterance, key=f"{name}-{utterance.key}") for utterance in corpus], tmp_path / name, OPTIONS)
    tars = tmp_path / "tars"
    tars.mkdir()
    (tars / "a.tar").write_bytes((tmp_path / "one" / "shard-000000.tar").read_bytes())
    with pytest.raises(UserError, match="two holds audio shards, not an index of tars; .*--overwrite"):
        index_in_place([tars], tmp_path / "two", ForeignOptions())
    with (
        pytest.raises(UserError, match="two holds audio shards, not features; give another directory$"),
        join(tmp_path / "two", {"dim": 4}, {"audio": "0"}),
    ):
        pass
    index_in_place([tars], tmp_path / "index", ForeignOptions())
    with pytest.raises(UserError, match="index holds an index of tars, not audio shards"):
        build(corpus, tmp_path / "index", OPTIONS)
    merge([tmp_path / "one"], tmp_path / "all")
    with pytest.raises(UserError, match="all holds what was made from other directories; "):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "all")
    with pytest.raises(UserError, match="tars is no shard directory; `slam-asr prep build` or"):
        read_index(tars)
