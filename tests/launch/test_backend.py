"""transcribe and score with --backend print and write what they do without; a server that goes loses nothing."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from data_prep.audio.decode import encode_flac, write_flac
from data_prep.shards.index import shard_name, write_index
from data_prep.shards.tar import ShardWriter
from decode.vllm import server as requests
from launch.command import main
from model.llm import load_llm
from tests.decode.conftest import TEXTS, noise
from tests.decode.vllm.endpoint import Endpoint, serving
from tests.tiny import tiny_recogniser


class World(NamedTuple):
    adapter: str
    recordings: list[str]
    endpoint: Endpoint
    backend: str


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    _, adapter = tiny_recogniser(folder)
    paths = [folder / f"{i}.flac" for i in range(3)]
    for i, path in enumerate(paths):
        write_flac(path, noise(i, 8_000 * (i + 1)))
    name = os.path.realpath(folder / "llm")
    with serving(Endpoint(load_llm(name, "float32"), name)) as endpoint:
        yield World(str(adapter), [str(path) for path in paths], endpoint, f"vllm:{endpoint.url}")


@pytest.fixture(autouse=True)
def few_pauses(monkeypatch) -> None:
    monkeypatch.setattr(requests, "FIRST_PAUSE_SECONDS", 0.001)


def test_transcribe_prints_the_same(world, capsys):
    assert main(["transcribe", world.adapter, *world.recordings]) == 0
    here = capsys.readouterr().out
    assert main(["transcribe", world.adapter, *world.recordings, "--backend", world.backend]) == 0
    there = capsys.readouterr()
    assert there.out == here and here.count("\n") == 3
    assert f"vLLM at {world.endpoint.url}/v1 decodes with {world.endpoint.name}: its embeddings are" in there.err


def test_a_server_that_goes_loses_nothing_that_was_transcribed(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("decode.recordings.files.READ_AHEAD_WINDOWS", 1)
    command = ["transcribe", world.adapter, *world.recordings, "--out", str(tmp_path), "--backend", world.backend]
    command += ["--strict"]
    world.endpoint.requests.clear()
    answer = world.endpoint.complete

    def complete(request: dict) -> dict:
        world.endpoint.gone = len(world.endpoint.requests) >= 3  # two at the start, and one recording
        return answer(request)

    monkeypatch.setattr(world.endpoint, "complete", complete)
    assert main(command) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "no answer after 6 tries" in lines[-1] and "run the same command when it is there again" in lines[-1]
    assert sorted(path.name for path in tmp_path.glob("*.txt")) == ["0.txt"]
    world.endpoint.gone = False
    monkeypatch.setattr(world.endpoint, "complete", answer)
    assert main(command) == 0
    assert "2 recordings transcribed, 1 already done" in capsys.readouterr().err
    assert main(command[:-3] + ["--strict"]) == 2
    assert f"backend was vllm:{world.endpoint.url}/v1, now it is None" in capsys.readouterr().err


def test_score_gives_the_same_and_records_the_backend(world, tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    with ShardWriter(shards / shard_name(0)) as writer:
        for i in range(2):
            meta = {"text": TEXTS[i], "seconds": 0.5, "speaker": "s", "language": "en"}
            meta |= {"task": "transcribe", "meta": {}}
            writer.add(f"u{i}", "flac", encode_flac(noise(i, 8_000)), meta, 8_000)
        info = writer.close()
    write_index(shards, "audio", [info], {}, {}, {})
    for name, more in (("here", []), ("there", ["--backend", world.backend])):
        assert main(["score", world.adapter, str(shards), "--out", str(tmp_path / name), *more]) == 0

    def read(name: str, file: str) -> str:
        return Path(tmp_path, name, file).read_text("utf-8")

    here, there = (list(map(json.loads, read(name, "results.jsonl").splitlines())) for name in ("here", "there"))
    for one, other in zip(here, there, strict=True):
        assert one.pop("confidence") == pytest.approx(other.pop("confidence"), abs=2e-4) and one == other
    assert json.loads(read("there", "score.json"))["backend"] == f"{world.backend}/v1"
    assert "backend" not in json.loads(read("here", "score.json"))


def test_beams_and_other_backends_are_refused(world, capsys):
    for flags, message in (
        (["--beams", "2", "--backend", world.backend], "--beams 2: with --backend the search is greedy"),
        (["--backend", "http://x"], "backend 'http://x' is not known; write vllm:http://127.0.0.1:8000"),
    ):
        assert main(["transcribe", world.adapter, world.recordings[0], *flags]) == 2
        assert message in capsys.readouterr().err
