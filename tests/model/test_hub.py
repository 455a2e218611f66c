"""The hub is asked once: what is not there, or cannot be reached, is one line without attempts again and again."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.tiny import tiny_models

LOAD = "import sys; from model.llm import load_llm; print(load_llm(sys.argv[1]).fingerprint['dim'])"


@contextmanager
def hub(status: int, code: str = "") -> Iterator[tuple[str, list[str]]]:
    """A hub on this host that answers every request alike; its address, and the files that it was asked for."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            if "/resolve/" in self.path:
                asked.append(self.path)
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.end_headers()

        do_GET = do_HEAD  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def load(source: str, endpoint: str, cache: Path, offline: str = "0") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": offline, "HF_HUB_CACHE": str(cache)}
    environment["NO_PROXY"] = environment["no_proxy"] = "127.0.0.1"
    return subprocess.run(
        [sys.executable, "-c", LOAD, source], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize(("status", "code"), [(404, ""), (401, "RepoNotFound")])
def test_an_id_that_the_hub_does_not_know_is_asked_for_once(tmp_path, status, code):
    with hub(status, code) as (address, asked):
        done = load("nobody/nothing", address, tmp_path)
    assert asked == ["/nobody/nothing/resolve/main/config.json"]
    last = done.stderr.splitlines()[-1]
    assert "Retry" not in done.stderr and "ModelNotFound" in last
    assert "'nobody/nothing'" in last and f"{address} has no such model (HTTP {status})" in last


def test_a_hub_that_cannot_be_reached_is_said_in_other_words(tmp_path):
    address = closed_port()
    done = load("nobody/nothing", address, tmp_path)
    last = done.stderr.splitlines()[-1]
    assert "Retry" not in done.stderr and "ModelNotFound" in last
    assert f"{address} cannot be reached" in last and "hf download nobody/nothing" in last


def test_a_model_in_the_cache_opens_without_the_hub(tmp_path):
    llm = tiny_models(tmp_path / "made")[1]
    repository = tmp_path / "cache" / "models--some--llm"
    shutil.copytree(llm, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    done = load("some/llm", closed_port(), tmp_path / "cache")
    assert (done.returncode, done.stdout) == (0, "48\n")
    assert "Retry" not in done.stderr
    with hub(404) as (address, asked):
        assert load("some/llm", address, tmp_path / "cache").returncode == 0
    assert len(asked) == 1


def test_an_answer_that_settles_nothing_is_left_to_the_library(tmp_path):
    with hub(403, "GatedRepo") as (address, asked):
        done = load("some/gated", address, tmp_path)
    assert len(asked) > 1
    last = done.stderr.splitlines()[-1]
    assert "ModelNotFound" not in last and "cannot load the LLM 'some/gated'" in last


def test_without_the_network_allowed_it_is_not_asked(tmp_path):
    with hub(404) as (address, asked):
        done = load("nobody/nothing", address, tmp_path, offline="1")
    assert asked == []
    assert "HF_HUB_OFFLINE is set" in done.stderr.splitlines()[-1]
