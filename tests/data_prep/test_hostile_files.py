"""Indexes, manifests and Parquet files made to do harm: refused at once, in one line, with none of their secrets."""

import gzip
import json
import os
import time
from dataclasses import replace

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from data_prep.audio.decode import AudioError, encode_flac
from data_prep.build.build import BuildOptions, build
from data_prep.durable import strict_json
from data_prep.importers import IMPORTERS, ImportOptions
from data_prep.importers.table import import_jsonl
from data_prep.recordings import parquet as parquet_module
from data_prep.recordings.parquet import RowGroups
from data_prep.shards.opening import read_index
from data_prep.utterance import write_jsonl
from model.errors import UserError
from tests.data_prep.conftest import tone
from tests.data_prep.reading import check


@pytest.fixture
def out(tmp_path, corpus):
    build(corpus, tmp_path / "out", BuildOptions(shard_size=5))
    return tmp_path / "out"


@pytest.mark.parametrize("name", ["index.json", "shard-000000.idx.json"])
def test_pipes_devices_and_holes_in_an_index_are_refused_at_once(out, name):
    for kind, said in (("pipe", "no plain file"), ("device", "no plain file"), ("hole", "more than 1,073,741,824 byt")):
        (out / name).unlink()
        if kind == "pipe":
            os.mkfifo(out / name)
        elif kind == "device":
            (out / name).symlink_to("/dev/zero")
        else:
            (out / name).touch()
            os.truncate(out / name, 200 << 30)
        with pytest.raises(UserError, match=f"cannot read .*{name}: it .*{said}"):
            read_index(out)


def test_totals_and_seconds_that_cannot_be_are_refused(out):
    right = json.loads((out / "index.json").read_bytes())
    for change, said in (
        ({"totals": {"bad": {"x": "1"}}}, "'bad' of the totals"),
        ({"totals": {"dropped": [1]}}, "'dropped' of the totals"),
        ({"totals": {"hours": None}}, "'hours' of the totals"),
        ({"shards": [right["shards"][0] | {"seconds": 10**400}]}, "holds 2.1000 s, index.json says 1000000"),
        ({"shards": [right["shards"][0] | {"seconds": -1}]}, "index.json says -1 s"),
    ):
        (out / "index.json").write_text(json.dumps(right | change))
        with pytest.raises(UserError, match=said):
            read_index(out)
    (out / "index.json").write_text(json.dumps(right | {"totals": {"hours": 0.125}}).replace("0.125", "1e999"))
    with pytest.raises(UserError, match="1e999"):
        read_index(out)


def test_the_secrets_of_an_address_are_in_no_message(out):
    document = json.loads((out / "index.json").read_bytes())
    document["shards"][0]["source"] = "https://ann:pass@host/gone.tar?token=abc"
    (out / "index.json").write_text(json.dumps(document))
    told = check(out)
    with pytest.raises(UserError) as error:
        read_index(out)
    for line in (*told, str(error.value)):
        assert "pass" not in line and "abc" not in line
    assert "https://host/gone.tar is missing" in str(error.value)


def test_pipes_devices_and_bombs_are_no_manifest(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "device.jsonl").symlink_to("/dev/zero")
    with gzip.GzipFile(tmp_path / "bomb.jsonl.gz", "wb") as file:
        for _ in range(120):
            file.write(b" " * ((1 << 20) - 1) + b"\n")
    for name, said in {
        "pipe.jsonl": "no plain file",
        "device.jsonl": "no plain file",
        "bomb.jsonl.gz": "unpacks to more than [0-9,]+ bytes",
    }.items():
        with pytest.raises(UserError, match=f"{name}.*{said}"):
            list(import_jsonl(tmp_path / name))
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UserError, match=r"pipe\.csv.*no plain file"):
        list(IMPORTERS["table"].read(tmp_path / "pipe.csv", ImportOptions()))


def test_a_header_of_very_many_columns_is_read_at_once(tmp_path):
    names = ",".join(map(str, range(150_000)))
    (tmp_path / "a.csv").write_text(f"audio,text,{names},7\n")
    began = time.process_time()
    with pytest.raises(UserError, match="column '7' is there twice"):
        list(IMPORTERS["table"].read(tmp_path / "a.csv", ImportOptions()))
    row = json.dumps({"audio": "a.wav"})[:-1] + "".join(f', "{name}": 0' for name in range(60_000)) + ', "7": 0}'
    (tmp_path / "a.jsonl").write_text(row)
    with pytest.raises(UserError, match="field '7' is there twice"):
        list(import_jsonl(tmp_path / "a.jsonl"))
    assert time.process_time() - began < 60, "it would be minutes if each name were looked for in all"


@pytest.mark.parametrize(
    "audio", ["ftp://ann:pass@host/a.wav?token=abc", "curl http://ann:pass@h/a?abc |", "ftp://[abc@"]
)
def test_the_secrets_of_an_address_are_not_repeated(tmp_path, audio):
    (tmp_path / "a.jsonl").write_text(json.dumps({"audio": audio, "text": "a"}))
    with pytest.raises(UserError, match="is not read") as error:
        list(import_jsonl(tmp_path / "a.jsonl"))
    assert "pass" not in str(error.value) and "abc" not in str(error.value)


def test_a_folder_whose_name_is_no_unicode_is_refused_in_one_line(tmp_path, corpus):
    odd = f"{tmp_path}/caf\udce9/a.flac"
    with pytest.raises(UserError, match=r"utt-00: its audio .*caf.*udce9/a.flac.* is not Unicode"):
        write_jsonl(tmp_path / "a.jsonl", [replace(corpus[0], audio=odd)])
    assert not (tmp_path / "a.jsonl").exists()


def test_parquet_files_of_too_much_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    path, options = tmp_path / "a.parquet", ImportOptions()
    columns = [pyarrow.array([""]).take(pyarrow.array(np.zeros(5_000_001, np.int8)))] * 2
    parquet.write_table(pyarrow.table(columns, ["audio", "text"]), path)
    assert path.stat().st_size < 200_000
    with pytest.raises(UserError, match="a.parquet: 5,000,001 rows.*5,000,000"):
        list(IMPORTERS["parquet"].read(path, options))
    recording = {"bytes": encode_flac(tone(0.4)), "path": "a.flac"}
    parquet.write_table(pyarrow.table({"audio": [recording], "text": ["a"]}), path)
    assert len(list(IMPORTERS["parquet"].read(path, options))) == 1
    monkeypatch.setattr(parquet_module, "MAX_COLUMN_BYTES", 1000)
    with pytest.raises(UserError, match=r"column 'audio.bytes' has [0-9,]+ bytes in one row group, at most 1,000"):
        list(IMPORTERS["parquet"].read(path, options))
    with pytest.raises(AudioError, match="at most 1,000"):
        RowGroups().value(str(path), 0, "audio")


@pytest.mark.parametrize("text", ["1e999", "[-1e999]", '{"a":"\\ud800"}', '{"\\uDfff":1}', "NaN", '{"a":1,"a":2}'])
def test_json_that_could_not_be_written_again_is_not_read(text):
    with pytest.raises(ValueError):
        strict_json(text.encode())
    assert strict_json(b'["\\ud83d\\ude00", "\\\\ud800", 1e308]') == ["\U0001f600", "\\ud800", 1e308]
