"""What `prep build` writes is read by the programs that others use, each utterance with its key, sound and words."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import webdataset

from data_prep.build.build import BuildOptions, build
from data_prep.shards.index import ShardIndex
from data_prep.shards.opening import read_index, shard_path
from data_prep.shards.tar import read_sample

UNCLOSED = pytest.mark.filterwarnings(  # webdataset leaves its files to the garbage collector
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
HUGGING_FACE = """
import json, sys
from datasets import Features, Value, load_dataset
text = Value("string")
meta = {"text": text, "seconds": Value("float64"), "language": text, "speaker": text, "task": text, "meta": {}}
features = Features({"__key__": text, "__url__": text, "flac": Value("binary"), "json": meta})  # Audio needs torchcodec
found = []
for streaming in (False, True):
    rows = load_dataset("webdataset", data_files=sys.argv[2:], split="train", features=features, streaming=streaming,
                        cache_dir=sys.argv[1])
    found.append([[r["__key__"], r["json"]["text"], r["json"]["speaker"], r["flac"].hex()] for r in rows])
print(json.dumps(found))
"""


@pytest.fixture
def index(tmp_path, corpus) -> ShardIndex:
    build(corpus, tmp_path / "out", BuildOptions(shard_size=5))
    return read_index(tmp_path / "out")


def tars(index: ShardIndex) -> list[Path]:
    return [shard_path(index, shard) for shard in range(len(index.shards))]


def expected(index: ShardIndex) -> list[tuple[str, str, str, bytes]]:
    samples = [read_sample(index, i) for i in range(len(index))]
    return [(s.key, s.meta["text"], s.meta["speaker"], bytes(s.media)) for s in samples]


def test_hugging_face_datasets_reads_it(tmp_path, index):
    pytest.importorskip("datasets")
    environment = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", HUGGING_FACE, str(tmp_path / "cache"), *map(str, tars(index))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    for found in json.loads(done.stdout.splitlines()[-1]):
        assert [(key, text, speaker, bytes.fromhex(media)) for key, text, speaker, media in found] == expected(index)


@UNCLOSED
def test_webdataset_reads_it(index):
    found = []
    for sample in webdataset.WebDataset([str(tar) for tar in tars(index)], shardshuffle=False):  # pyright: ignore
        row = json.loads(sample["json"])
        found.append((sample["__key__"], row["text"], row["speaker"], sample["flac"]))
    assert found == expected(index)


def test_tar_unpacks_it(tmp_path, index):
    (tmp_path / "there").mkdir()
    for tar in tars(index):
        subprocess.run(["tar", "xf", tar, "-C", tmp_path / "there"], check=True)
        with tarfile.open(tar) as opened:
            assert all(member.isreg() for member in opened)
    there = tmp_path / "there"
    assert len(list(there.iterdir())) == 2 * len(index)
    for key, text, speaker, media in expected(index):
        row = json.loads((there / f"{key}.json").read_text())
        assert (row["text"], row["speaker"], (there / f"{key}.flac").read_bytes()) == (text, speaker, media)
