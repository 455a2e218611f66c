import hashlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.audio.decode import encode_flac
from data_prep.build.build import BuildOptions, build
from data_prep.build.in_place import ForeignOptions, index_in_place
from data_prep.inspect import check as module
from data_prep.inspect.audit.audit import audit
from data_prep.inspect.check import CheckOptions, count_samples
from data_prep.shards.index import ShardInfo, shard_name, write_index
from data_prep.shards.opening import read_index
from data_prep.shards.tar import ShardWriter
from launch.command import main
from model.errors import UserError
from tests.data_prep.conftest import tone
from tests.data_prep.reading import check
from tests.data_prep.toolkits import write_tar

META = {"text": "some words", "seconds": 1.0, "language": "", "speaker": "", "task": "transcribe", "meta": {}}


def test_every_broken_shard_is_named_in_order_and_not_only_the_first(tmp_path, corpus, capsys):
    out = tmp_path / "out"
    build(corpus, out, BuildOptions(shard_size=3))
    assert check(out) == [] and "check out: 12 of 12 utterances" in capsys.readouterr().err
    (out / "shard-000003.tar").write_bytes(b"short")
    (out / "shard-000001.tar").unlink()
    (out / "shard-000002.idx.json").unlink()
    (out / "shard-000009.tar").touch()
    assert [problem.split(":")[0] for problem in check(out)] == [
        "shard-000009.tar",  # not listed: who reads *.tar would train on it
        "shard-000001.tar",
        "shard-000002.idx.json",
        "shard-000003.tar",
    ]


@pytest.mark.parametrize(
    ("meta", "samples", "said"),
    [
        ({}, 16000, ""),
        ({"seconds": 1.1}, 16000, "its metadata says 1.1 s, the index 1.0000 s"),
        ({"seconds": "1"}, 16000, "seconds is '1'"),
        ({"seconds": 10**400}, 16000, "seconds is 10000000000000000000, "),
        ({"speaker": 19}, 16000, "speaker is 19"),
        ({"language": None}, 16000, "language is None"),
        ({"task": []}, 16000, "task is []"),
        ({"meta": "m"}, 16000, "meta is 'm'"),
        ({"seconds": 0.5}, 8000, "16,000 samples, the index says 8,000"),
    ],
)
def test_what_was_written_wrong_is_found_though_every_hash_is_right(tmp_path, meta, samples, said):
    shard = written(tmp_path, "flac", encode_flac(tone(1.0)), META | meta, samples)
    write_index(tmp_path, "audio", [shard], {}, {}, {})
    assert [said in problem and "utterance a" in problem for problem in check(tmp_path)] == [True] * bool(said)


def test_frames_that_are_no_numbers_are_found(tmp_path):
    for dtype, bits in {"float16": (0x3C00, 0x7C00, 0x7E01), "bfloat16": (0x7C00, 0x7F80, 0xFF81)}.items():
        for good, words in ((True, bits[:1]), (False, bits[:2]), (False, (bits[0], bits[2]))):
            media = np.resize(np.array(words, "<u2"), (3, 2)).tobytes()
            shard = written(tmp_path, "f16", media, META, 16000, frames=3)
            write_index(tmp_path, "features", [shard], {"dim": 2, "feature_dtype": dtype}, {}, {})
            found = check(tmp_path)
            assert found == [] if good else ["3 of 6 numbers are NaN or Inf" in line for line in found] == [True]
    write_index(tmp_path, "features", [shard], {"dim": 3, "feature_dtype": "float16"}, {}, {})
    assert "12 bytes, the index says 3 frames of 3" in check(tmp_path)[0]
    for fingerprint in ({}, {"dim": 2, "feature_dtype": "float4"}, {"dim": [2], "feature_dtype": "float16"}):
        write_index(tmp_path, "features", [shard], fingerprint, {}, {})
        assert "type and width" in check(tmp_path)[0]


def test_tars_of_others_are_checked_where_they_lie(tmp_path):
    tar, out = tmp_path / "theirs.tar", tmp_path / "out"
    write_tar(tar, [("a.flac", encode_flac(tone(1.0))), ("a.txt", b"some words")])
    index_in_place([tar], out, ForeignOptions())
    assert check(out) == []
    changed = bytearray(tar.read_bytes())
    changed[2000] ^= 1
    tar.write_bytes(changed)
    problems = check(out)
    assert all("theirs.tar" in problem for problem in problems) and len(problems) == 2
    assert "sha256" in problems[0] and "utterance a" in problems[1]
    tar.unlink()
    assert "missing" in check(out)[0]


def test_a_flipped_byte_is_found_without_decoding_too(tmp_path, corpus):
    build(corpus[:4], tmp_path / "out", BuildOptions())
    path = tmp_path / "out" / shard_name(0)
    whole, index = path.read_bytes(), read_index(tmp_path / "out")
    for position in (int(index.offset[0]) + 50, int(index.meta_offset[2]), len(whole) - 1):
        changed = bytearray(whole)
        changed[position] ^= 1
        path.write_bytes(changed)
        assert "sha256" in audit(tmp_path / "out", CheckOptions(quick=True)).problems[0]


def test_webdataset_reads_some_shards_and_with_full_all(tmp_path, corpus, monkeypatch, capsys):
    build(corpus, tmp_path / "out", BuildOptions(shard_size=2))
    read = []
    monkeypatch.setattr(module, "count_samples", lambda tar, index: read.append(tar.stem) or count_samples(tar, index))
    assert main(["prep", "check", str(tmp_path / "out"), "--quick", "--workers", "1"]) == 0 and len(read) == 4
    assert main(["prep", "check", str(tmp_path / "out"), "--quick", "--full", "--workers", "1"]) == 0
    assert set(read) == {f"shard-{number:06d}" for number in range(6)} and len(read) == 10
    printed = capsys.readouterr().out
    assert "4 shards read by webdataset" in printed and "6 shards read by webdataset" in printed


def test_what_webdataset_yields_beyond_the_index_is_a_problem_that_names_shard_and_counts(tmp_path, capsys):
    with ShardWriter(tmp_path / shard_name(0)) as writer:
        for key in "ab":
            writer.add(key, "flac", encode_flac(tone(1.0)), META, 16000)
        shard = writer.close()
    columns = json.loads((tmp_path / "shard-000000.idx.json").read_bytes())
    columns["columns"] = {name: values[:1] for name, values in columns["columns"].items()}
    data = json.dumps(columns).encode()
    (tmp_path / "shard-000000.idx.json").write_bytes(data)
    shard = replace(shard, utterances=1, seconds=1.0, columns_sha256=hashlib.sha256(data).hexdigest())
    write_index(tmp_path, "audio", [shard], {}, {}, {})
    assert main(["prep", "check", str(tmp_path), "--workers", "1"]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"shard-000000.tar: webdataset yields 2 samples.* b .*lists 1\n", printed)


@pytest.mark.parametrize(
    ("members", "cut", "parts"),
    [
        (("a.flac", "a.json", "b.flac", "b.json"), 0, ()),
        (("a.flac", "a.json", "b.flac"), 0, ("2 samples", "number 2", "b of flac", "lists 2")),
        (("a.flac", "a.json", "c.flac", "c.json"), 0, ("2 samples", "c of flac and json", "lists 2")),
        (("a.flac", "a.json"), 0, ("1 sample;", "lists 2")),
        (("a.flac", "a.json", "a.flac", "a.json"), 0, ("then fails", "a.flac", "lists 2")),
        (("a.flac", "a.json", "b.flac", "b.json"), 2500, ("then fails", "lists 2")),
    ],
)
def test_samples_that_webdataset_reads_otherwise_are_found(tmp_path, members, cut, parts):
    write_tar(tmp_path / "s.tar", ((name, bytes(600)) for name in members))
    if cut:
        os.truncate(tmp_path / "s.tar", cut)
    with ShardWriter(tmp_path / shard_name(0)) as writer:
        for key in "ab":
            writer.add(key, "flac", encode_flac(tone(0.1)), META | {"seconds": 0.1}, 1600)
        write_index(tmp_path, "audio", [writer.close()], {}, {}, {})
    problems = count_samples(tmp_path / "s.tar", read_index(tmp_path))
    assert len(problems) == bool(parts) and all(part in problems[0] for part in ("shard-000000.tar", *parts) if parts)


def test_a_folder_that_is_no_dataset_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="there is no .*nowhere"):
        check(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is no shard directory"):
        check(tmp_path)
    write_index(tmp_path, "audio", [], {}, {}, {})
    assert check(tmp_path) == []


def written(folder: Path, extension: str, media: bytes, meta: dict, samples: int, frames: int = 0) -> ShardInfo:
    """A shard of one utterance whose index says of it what it is told to say."""
    with ShardWriter(folder / shard_name(0)) as writer:
        writer.add("a", extension, media, meta, samples, frames)
        return writer.close()
