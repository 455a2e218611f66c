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
from threading import Thread

from tests.tiny import tiny_models

LOAD = """
import json, sys
from huggingface_hub import constants
from model.errors import UserError
from model.llm import load_llm
for endpoint, offline, sources in json.loads(sys.argv[1]):
    constants.ENDPOINT, constants.HF_HUB_OFFLINE = endpoint, offline
    constants.HUGGINGFACE_CO_URL_TEMPLATE = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    for source in sources:
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


def test_the_hub_is_asked_once_and_the_cache_is_used_if_it_has_no_such_model_or_cannot_be_reached(tmp_path):
    """One process: with a hub, with one that cannot be reached, offline."""
    repository = tmp_path / "cache" / "models--some--llm"
    shutil.copytree(tiny_models(tmp_path / "made")[1], repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    with hub() as (address, asked):
        steps = [
            (address, False, [*ANSWERS, "some/llm"]),
            (nobody, False, ["nobody/unreachable", "some/llm"]),
            (address, True, ["nobody/offline"]),
        ]
        environment = os.environ | {
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        command = [sys.executable, "-c", LOAD, json.dumps(steps)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    nothing, private, gated, from_cache, unreachable, from_cache_too, offline = answers
    assert [asked.count(source) for source in ("nobody/nothing", "nobody/private", "some/llm")] == [1, 1, 1]
    for text, source, status in ((nothing, "nobody/nothing", 404), (private, "nobody/private", 401)):
        assert text.startswith("ModelNotFound: ") and repr(source) in text
        assert f"{address} has no such model (HTTP {status})" in text
    assert from_cache == from_cache_too == 48
    assert asked.count("some/gated") > 1 and gated.startswith("UserError: ") and "'some/gated'" in gated
    assert unreachable.startswith("ModelNotFound: ") and f"{nobody} cannot be reached" in unreachable
    assert "hf download nobody/unreachable" in unreachable
    assert "nobody/offline" not in asked and "HF_HUB_OFFLINE is set" in offline
    assert "Retry" not in done.stderr
