from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.build.build import BuildOptions, build
from data_prep.build.in_place import ForeignOptions, index_in_place
from data_prep.build.prepare import Limits
from data_prep.rework.copying import ReshardOptions, merge, plan, record_bytes, reshard
from data_prep.rework.joined import concatenate
from data_prep.rework.subset import Subset, read_keys
from data_prep.shards.coverage import AUDIO_CRC
from data_prep.shards.index import ShardIndex, columns_path, write_index
from data_prep.shards.opening import read_document, read_index, shard_path
from data_prep.shards.tar import ShardWriter, read_meta, read_sample
from launch.command import main
from model.errors import UserError
from tests.data_prep.build.test_build import HELD, contents, kill_midway
from tests.data_prep.reading import check

ENCODER = {"encoder": "hubert", "layer": 9, "dim": 4, "feature_dtype": "float16"}


def samples_of(*roots: Path) -> dict[str, tuple]:
    """By key: media, metadata, and the columns that do not tell of a place."""
    found = {}
    for index in map(read_index, roots):
        for i, key in enumerate(index.key):
            sample = read_sample(index, i)
            numbers = [int(getattr(index, name)[i]) for name in ("crc32", "samples", "frames", "characters")]
            found[key] = (bytes(sample.media), sample.meta, numbers)
    return found


def features(out: Path, prefix: str, count: int, fingerprint: dict | None = None) -> Path:
    """A feature directory of two shards, without an encoder."""
    out.mkdir()
    shards = []
    for number in range(2):
        with ShardWriter(out / f"shard-{number:06d}.tar") as writer:
            for i in range(number, count, 2):
                frames = np.random.default_rng(i).normal(size=(3 + i, 4)).astype("<f2")
                meta = {"text": f"größe {i}", "seconds": 0.1, "language": "de", "speaker": f"s{i % 2}"}
                meta |= {"task": "transcribe", "meta": {"room": i}}
                writer.add(f"{prefix}{i}", "f16", frames.tobytes(), meta, 1600 + i, len(frames))
            shards.append(writer.close({AUDIO_CRC: list(range(number, count, 2))}))
    write_index(out, "features", shards, fingerprint or ENCODER, {}, {})
    return out


@pytest.fixture
def two(tmp_path, corpus) -> tuple[Path, Path]:
    """Two audio directories, of 7 and 5 utterances."""
    build(corpus[:7], tmp_path / "a", BuildOptions(shard_size=3))
    build(corpus[7:], tmp_path / "b", BuildOptions(shard_size=3))
    return tmp_path / "a", tmp_path / "b"


def test_resharding_keeps_every_byte_of_every_sample_and_is_the_build_of_that_size(tmp_path, corpus, two):
    totals = reshard(two, tmp_path / "out", ReshardOptions(shard_size=5, seed=3))
    assert (totals.utterances, totals.shards, totals.dropped) == (12, 3, {})
    assert samples_of(tmp_path / "out") == samples_of(*two) and check(tmp_path / "out") == []
    build(corpus, tmp_path / "built", BuildOptions(shard_size=5, seed=3))
    assert contents(tmp_path / "out", "*.tar") == contents(tmp_path / "built", "*.tar")
    assert read_index(tmp_path / "out").digest() == read_index(tmp_path / "built").digest()


def test_features_are_resharded_and_merged_with_their_encoder(tmp_path):
    roots = [features(tmp_path / "a", "a", 5), features(tmp_path / "b", "b", 4)]
    for out, totals in {
        "r": reshard(roots, tmp_path / "r", ReshardOptions(shard_size=4, shuffle="none")),
        "m": merge(roots, tmp_path / "m"),
    }.items():
        index = read_index(tmp_path / out)
        assert totals.frames == index.frames.sum() and index.fingerprint == ENCODER
        assert samples_of(tmp_path / out) == samples_of(*roots) and check(tmp_path / out) == []
    for out in ("r", "m"):  # what is known of the audio goes along
        columns = [read_document(path) for path in sorted((tmp_path / out).glob("*.idx.json"))]
        crcs = {key: crc for one in columns for key, crc in zip(one["columns"]["key"], one[AUDIO_CRC], strict=True)}
        assert crcs == {f"{name}{i}": i for name, count in (("a", 5), ("b", 4)) for i in range(count)}
    assert read_index(tmp_path / "r").key == [*read_index(roots[0]).key, *read_index(roots[1]).key]
    other = features(tmp_path / "other", "o", 2, {**ENCODER, "layer": 8})
    with pytest.raises(UserError, match="different encoders: layer is 9 and 8"):
        merge([roots[0], other], tmp_path / "no")


def test_merged_tars_are_links_with_all_bytes_and_again_does_nothing(tmp_path, two):
    totals = merge(two, tmp_path / "m")
    assert (totals.utterances, totals.shards) == (12, 5) and check(tmp_path / "m") == []
    assert samples_of(tmp_path / "m") == samples_of(*two)
    assert (tmp_path / "m/shard-000003.tar").samefile(two[1] / "shard-000000.tar")
    assert merge(two, tmp_path / "m").already_built
    merge(two, tmp_path / "copied", copy=True)
    assert not (tmp_path / "copied/shard-000000.tar").samefile(two[0] / "shard-000000.tar")
    assert contents(tmp_path / "copied") == contents(tmp_path / "m")
    before = contents(tmp_path / "m")
    with pytest.raises(UserError, match="holds what was made from other directories; give another"):
        merge([two[0]], tmp_path / "m")
    assert contents(tmp_path / "m") == before


def test_an_interrupted_merge_goes_on(tmp_path, two):
    merge(two, tmp_path / "whole")
    merge(two, tmp_path / "m")
    (tmp_path / "m/index.json").rename(tmp_path / "m/.unfinished.json")  # it says, too, what is being made
    columns_path(tmp_path / "m/shard-000001.tar").unlink()
    (tmp_path / "m/shard-000002.tar").unlink()
    changed = columns_path(tmp_path / "m/shard-000000.tar")
    changed.write_bytes(changed.read_bytes().replace(b"utt-0", b"utt-9"))
    merge(two, tmp_path / "m")
    assert contents(tmp_path / "m") == contents(tmp_path / "whole")


def test_a_key_in_two_directories_is_refused_and_prefixes_keep_both(tmp_path, two):
    merge(two[:1], tmp_path / "c")
    with pytest.raises(UserError, match=r"\(and 6 more\) is in both .*/a and .*/c; .*--prefix-keys"):
        merge([two[0], tmp_path / "c"], tmp_path / "m")
    assert not (tmp_path / "m").exists()
    merge([two[0], tmp_path / "c"], tmp_path / "m", prefixes=["x", "y"])
    found, given = samples_of(tmp_path / "m"), samples_of(two[0])
    assert set(found) == {f"{name}_{key}" for name in "xy" for key in given} and check(tmp_path / "m") == []
    assert all(found[f"y_{key}"][:2] == sample[:2] for key, sample in given.items())
    for prefixes, what in {("x",): "1 prefix for 2", ("x", "../y"): "prefix '../y' is not"}.items():
        with pytest.raises(UserError, match=what):
            merge([two[0], two[1]], tmp_path / "no", prefixes=prefixes)
    with pytest.raises(UserError, match="choose other prefixes"):
        merge([two[0], tmp_path / "c"], tmp_path / "no", prefixes=["x", "x"])


def test_what_does_not_fit_together_is_refused(tmp_path, two):
    with pytest.raises(UserError, match="holds audio, .*/f features"):
        reshard([two[0], features(tmp_path / "f", "f", 2)], tmp_path / "no", ReshardOptions())
    with pytest.raises(UserError, match="one of the directories to read"):
        reshard(two, two[1], ReshardOptions())
    _set_media(two[1], "opus")
    with pytest.raises(UserError, match="holds flac, .*/b opus"):
        merge(two, tmp_path / "no")
    index_in_place([two[0] / "shard-000000.tar"], tmp_path / "foreign", ForeignOptions())
    with pytest.raises(UserError, match="lists tars of others where they lie; build it instead"):
        merge([tmp_path / "foreign"], tmp_path / "no")
    assert not (tmp_path / "no").exists()


def _set_media(root: Path, media: str) -> None:
    index = read_index(root)
    write_index(root, index.kind, list(index.shards), index.fingerprint, index.options | {"media": media}, index.totals)


def test_transcripts_written_by_different_rules_are_warned_about(tmp_path, corpus, capsys):
    build(corpus[:6], tmp_path / "a", BuildOptions())
    build(corpus[6:], tmp_path / "b", BuildOptions(limits=Limits(normalise="lowercase")))
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m")
    assert "warning: transcripts will be mixed: normalise is none in" in capsys.readouterr().err


def test_sizes_and_orders_are_as_asked_for(tmp_path, two):
    index = concatenate([read_index(root) for root in two])
    for limit in range(20_480, 120_000, 509):
        options = ReshardOptions(shard_bytes=limit, shuffle="none")
        parts = plan(index, np.arange(12), options)
        sizes = [-(-(int(record_bytes(index)[part].sum()) + 1024) // 10_240) * 10_240 for part in parts]
        assert all(size <= limit or len(part) == 1 for size, part in zip(sizes, parts, strict=True))
        assert np.concatenate(parts).tolist() == list(range(12))
    reshard(two, tmp_path / "bytes", options)
    assert [shard.bytes for shard in read_index(tmp_path / "bytes").shards] == sizes
    reshard(two, tmp_path / "one", ReshardOptions(shard_bytes=1))
    assert [shard.utterances for shard in read_index(tmp_path / "one").shards] == [1] * 12
    reshard(two, tmp_path / "sorted", ReshardOptions(shard_size=3, shuffle="sorted"))
    index = read_index(tmp_path / "sorted")
    lengths = np.sort(index.samples).reshape(4, 3).tolist()
    found = [index.samples[index.shard == number].tolist() for number in range(4)]
    assert found != lengths and sorted(found) == lengths
    reshard(two, tmp_path / "mixed", ReshardOptions(shard_size=3, shuffle="stratified"))
    index = read_index(tmp_path / "mixed")
    assert all(len(set(index.shard[index.samples.argsort()][i : i + 4])) == 4 for i in (0, 4, 8))
    with pytest.raises(UserError, match="shuffle 'sort' is not known, did you mean 'sorted'"):
        ReshardOptions(shuffle="sort")


def test_what_is_left_out_is_counted_and_named(tmp_path, corpus, two, capsys):
    keys = {corpus[0].key, corpus[5].key, corpus[11].key, "nobody"}
    totals = reshard(two, tmp_path / "kept", ReshardOptions(subset=Subset(keys=frozenset(keys))))
    assert (totals.utterances, totals.dropped) == (3, {"not-in-keys": 9})
    assert "1 of 4 keys asked for is not there: nobody" in capsys.readouterr().err
    assert read_keys(tmp_path / "kept/dropped.jsonl") == {u.key for u in corpus} - keys
    subset = Subset(drop_keys=frozenset({corpus[0].key}), min_seconds=0.3, where=(("speaker", "speaker1"),))
    totals = reshard(two, tmp_path / "rest", ReshardOptions(subset=subset))
    assert totals.dropped == {"in-drop-keys": 1, "below-min-seconds": 1, "other-speaker": 7}
    assert set(read_index(tmp_path / "rest").key) == {"utt-04", "utt-07", "utt-10"}
    for where, what in {
        ("speker", "x"): "field 'speker'; did you mean 'speaker'",
        ("speaker", "9"): "known: spea",
    }.items():
        with pytest.raises(UserError, match=what):
            reshard(two, tmp_path / "no", ReshardOptions(subset=Subset(where=(where,))))
    with pytest.raises(UserError, match="none of 12 utterances"):
        reshard(two, tmp_path / "no", ReshardOptions(subset=Subset(max_seconds=0.1)))


def test_a_damaged_member_stops_it_by_name_and_nothing_is_declared(tmp_path, two):
    index = read_index(two[0])
    with open(shard_path(index, 1), "r+b") as file:
        file.seek(int(index.offset[4]) + 50)
        file.write(b"\xff\x00\xff")
    with pytest.raises(UserError, match=rf"shard-000001\.tar, utterance {index.key[4]}: its bytes have changed"):
        reshard(two, tmp_path / "out", ReshardOptions(workers=2))
    with pytest.raises(UserError, match="has changed since it was made"):
        merge(two, tmp_path / "copied", copy=True)
    shard_path(index, 0).write_bytes(bytes(index.shards[0].bytes))
    with pytest.raises(UserError, match="shard-000000.tar cannot be read: it is empty; run"):
        merge(two, tmp_path / "out")
    assert not (tmp_path / "out/index.json").exists() and not (tmp_path / "copied/index.json").exists()


def test_killed_and_run_again_on_three_workers_gives_the_same_bytes(tmp_path, corpus):
    many = [replace(corpus[i % 12], key=f"copy-{i}") for i in range(400)]
    build(many, tmp_path / "a", BuildOptions(shard_size=100))
    reshard([tmp_path / "a"], tmp_path / "whole", ReshardOptions(shard_size=10))
    given = ["prep", "reshard", str(tmp_path / "out"), str(tmp_path / "a"), "--shard-size", "10", "--workers", "2"]
    program = f"{HELD}from launch.command import main\nif __name__ == '__main__': sys.exit(main({given}))"
    (tmp_path / "program.py").write_text(program)
    kill_midway(tmp_path / "program.py", tmp_path / "out")
    with pytest.raises(UserError, match="not finished"):
        read_index(tmp_path / "out")
    totals = reshard([tmp_path / "a"], tmp_path / "out", ReshardOptions(shard_size=10, workers=3))
    assert 2 <= totals.kept_shards < 40
    assert contents(tmp_path / "out") == contents(tmp_path / "whole") and not list(tmp_path.glob("out/.*"))


def test_metadata_is_read_without_the_media(two):
    index = read_index(two[0])
    assert [read_meta(index, i) for i in range(len(index))] == [read_sample(index, i).meta for i in range(len(index))]
    broken: ShardIndex = replace(index, meta_offset=index.meta_offset + 10**9)
    with pytest.raises(UserError, match="ends 1?[0-9,]+ bytes too early"):
        read_meta(broken, 0)


def test_directories_at_an_address_are_read_through_the_cache(tmp_path, two, monkeypatch):
    import fsspec

    monkeypatch.setenv("SLAM_ASR_CACHE", str(tmp_path / "cache"))
    fsspec.filesystem("memory").put(str(two[1]), "/reshard-b", recursive=True)
    roots = [two[0], "memory://reshard-b"]
    merge(roots, tmp_path / "m")
    reshard(roots, tmp_path / "r", ReshardOptions(shard_size=4))
    reshard(two, tmp_path / "here", ReshardOptions(shard_size=4))
    assert samples_of(tmp_path / "m") == samples_of(*two) and contents(tmp_path / "r") == contents(tmp_path / "here")
    assert (tmp_path / "m/shard-000004.tar").stat().st_nlink == 1
    monkeypatch.setenv("SLAM_ASR_CACHE_GB", "0.00001")
    with pytest.raises(UserError, match="memory://reshard-b has shards of .*, the cache may hold 10 kB; raise"):
        reshard(roots, tmp_path / "no", ReshardOptions())


def test_a_session_by_the_command(tmp_path, two, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["prep", "merge", "all", "a", "b"]) == 0
    assert "all: 12 utterances" in capsys.readouterr().out
    Path("bad.txt").write_text("utt-03\n\nutt-07\n")
    again = ["prep", "reshard", "small", "all", "--shard-bytes", "1MB", "--drop-keys", "bad.txt", "--workers", "1"]
    assert main(again) == 0 and main(again) == 0
    printed = capsys.readouterr().out
    assert "10 utterances" in printed and "in-drop-keys 2 (see dropped.jsonl)" in printed and "nothing done" in printed
    assert main(["prep", "check", "small"]) == 0
    assert main(["prep", "merge", "twice", "a", "a"]) == 2 and main(["prep", "reshard", "x", "nowhere"]) == 2
    assert main(["prep", "reshard", "x", "a", "--shard-bytes", "1 pound"]) == 2
    assert main(["prep", "reshard", "x", "a", "--keys", "nowhere.txt"]) == 2
    error = capsys.readouterr().err
    assert "is in both a and a" in error and "'1 pound' is no number of bytes" in error and "nowhere.txt" in error
    assert not Path("x").exists() and not Path("twice").exists()
