"""What an index may say, and what is refused of it."""

import hashlib
import json
from dataclasses import replace

import pytest

from data_prep.build.build import BuildOptions, build
from data_prep.shards.opening import read_index
from model.errors import UserError


@pytest.fixture
def out(tmp_path, corpus):
    build(corpus, tmp_path / "out", BuildOptions(shard_size=5))
    return tmp_path / "out"


def test_an_index_that_disagrees_is_refused_with_the_place(out):
    columns = out / "shard-000000.idx.json"
    document = out / "index.json"
    right, right_document = columns.read_bytes(), document.read_bytes()

    def refused(match, columns_text=None, **changes):
        columns.write_bytes(right if columns_text is None else columns_text)
        document.write_text(json.dumps(json.loads(right_document) | changes))
        with pytest.raises(UserError, match=match) as error:
            read_index(out)
        assert "\n" not in str(error.value)

    refused("shard-000000.idx.json .*index.json", right.replace(b'"crc32":[', b'"crc32":[1,', 1))
    refused("version 2", version=2)
    refused("kind", kind="video")
    refused("'../x", shards=[json.loads(right_document)["shards"][0] | {"name": "../x.tar"}])
    refused(r"'x; id \|' .*flac, opus, any", options={"media": "x; id |"})
    refused("'bad' of the totals", totals={"bad": {"silent": "1"}})
    refused("shard of index.json", shards=[{"name": "shard-000000.tar"}])
    refused("missing", shards=[json.loads(right_document)["shards"][0] | {"name": "shard-000099.tar"}])
    document.write_text("{")
    with pytest.raises(UserError, match=f"{document}: "):
        read_index(out)
    document.unlink()
    with pytest.raises(UserError, match=f"{out} has no index.json"):
        read_index(out)


def test_columns_out_of_bounds_are_refused_even_with_the_right_hash(out):
    columns, document = out / "shard-000000.idx.json", out / "index.json"
    right = json.loads(columns.read_bytes())
    for change in (
        {"offset": [10**9] * 5},
        {"length": [2**62] * 5},
        {"length": [-1] * 5},
        {"samples": ["1"] * 5},
        {"frames": [2**40] * 5},
        {"frames": [10**6] * 5},
        {"samples": [3600 * 16000 + 1] * 5},
        {"crc32": [1]},
        {"key": ["../x"] * 5},
        {"key": ["a/b", *right["columns"]["key"][1:]]},
    ):
        data = json.dumps(right | {"columns": right["columns"] | change}).encode()
        columns.write_bytes(data)
        text = json.loads(document.read_bytes())
        text["shards"][0]["columns_sha256"] = hashlib.sha256(data).hexdigest()
        document.write_text(json.dumps(text))
        with pytest.raises(UserError, match="shard-000000.idx.json"):
            read_index(out)


def test_the_digest_is_of_the_data_not_of_its_place(tmp_path, corpus, out):
    build(corpus, tmp_path / "elsewhere", BuildOptions(shard_size=5))
    assert read_index(out).digest() == read_index(tmp_path / "elsewhere").digest()
    changed = [replace(corpus[0], text="other"), *corpus[1:]]
    build(changed, tmp_path / "other", BuildOptions(shard_size=5))
    assert read_index(tmp_path / "other").digest() != read_index(out).digest()
