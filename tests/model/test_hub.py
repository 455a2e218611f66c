"""The hub is asked once: a model that is not there, or a hub that cannot be reached, is one line without retries."""

import json
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
from typing import Any

import pytest

from tests.tiny import tiny_models

LOAD = """
import json, sys
from model.errors import UserError
from model.llm import load_llm
for source in sys.argv[1:]:
    try:
        print(json.dumps(load_llm(source).fingerprint["dim"]))
    except UserError as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))
"""
ANSWERS = {"nobody/nothing": (404, ""), "nobody/private": (401, "RepoNotFound"), "some/gated": (403, "GatedRepo")}


@contextmanager
def hub() -> Iterator[tuple[str, list[str]]]:
    """A hub on this host with ANSWERS, and 404 for other ids; its address, and the ids whose files were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            source = "/".join(self.path.split("/")[1:3])
            if "/resolve/" in self.path:
                asked.append(source)
            status, code = ANSWERS.get(source, (404, ""))
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.end_headers()

        do_GET = do_HEAD  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A hub cache that holds some/llm."""
    folder = tmp_path_factory.mktemp("hub")
    repository = folder / "cache" / "models--some--llm"
    shutil.copytree(tiny_models(folder / "made")[1], repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    return folder / "cache"


def load(endpoint: str, cache: Path, *sources: str, offline: str = "0") -> tuple[list[Any], str]:
    """Each source's embedding width, or its refusal; and stderr."""
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": offline, "HF_HUB_CACHE": str(cache)}
    environment["NO_PROXY"] = environment["no_proxy"] = "127.0.0.1"
    command = [sys.executable, "-c", LOAD, *sources]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_the_hub_is_asked_once_unless_its_answer_settles_nothing(cache):
    with hub() as (address, asked):
        (nothing, private, cached, gated), log = load(address, cache, *list(ANSWERS)[:2], "some/llm", "some/gated")
    assert [asked.count(source) for source in ("nobody/nothing", "nobody/private", "some/llm")] == [1, 1, 1]
    for text, source, status in ((nothing, "nobody/nothing", 404), (private, "nobody/private", 401)):
        assert text.startswith("ModelNotFound: ") and repr(source) in text
        assert f"{address} has no such model (HTTP {status})" in text
    assert cached == 48  # from the cache, as the hub has no such model
    assert asked.count("some/gated") > 1 and gated.startswith("UserError: ") and "'some/gated'" in gated
    assert "Retry" not in log


def test_a_hub_that_cannot_be_reached_is_named_and_the_cache_is_used(cache):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    (nothing, cached), log = load(address, cache, "nobody/nothing", "some/llm")
    assert nothing.startswith("ModelNotFound: ") and f"{address} cannot be reached" in nothing
    assert "hf download nobody/nothing" in nothing and cached == 48 and "Retry" not in log


def test_an_offline_hub_is_not_asked(cache):
    with hub() as (address, asked):
        (nothing,), _ = load(address, cache, "nobody/nothing", offline="1")
    assert asked == [] and "HF_HUB_OFFLINE is set" in nothing
