"""A real S3 server (moto's, on 127.0.0.1), which fails, lies and dawdles as it is told, and counts what it is asked."""

import os
import threading
import time
from collections import Counter

import pytest


class Server:
    """moto behind a door that fails, lies and counts."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.statuses: list[int] = []
        """Given out for the next requests, in place of an answer."""
        self.damaged: list[str] = []
        """Of the next answer for a path that ends so, one byte is changed on the way."""
        self.seconds = 0.0
        """Before each answer."""
        self.held = ""
        """A request for a path that ends so gets no answer until this is empty; then an error."""
        self.seen: Counter[tuple[str, str]] = Counter()
        self.now = self.most = 0
        """Requests under way; the most there ever were."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, environ, start_response):
        self.seen[environ["REQUEST_METHOD"], environ["PATH_INFO"]] += 1
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(self.seconds)
        held = bool(self.held) and environ["PATH_INFO"].endswith(self.held)
        while self.held and held:
            time.sleep(0.01)
        self.now -= 1
        if held:
            start_response("503 held", [("Content-Length", "0")])
            return [b""]
        if self.statuses:
            start_response(f"{self.statuses.pop(0)} told so", [("Content-Length", "0")])
            return [b""]
        answer = self._app(environ, start_response)
        if environ["REQUEST_METHOD"] == "GET" and self.damaged and environ["PATH_INFO"].endswith(self.damaged[0]):
            self.damaged.pop(0)
            body = bytearray(b"".join(answer))
            body[len(body) // 2] ^= 1
            return [bytes(body)]
        return answer

    def gets(self, name: str) -> int:
        return sum(count for (method, path), count in self.seen.items() if method == "GET" and path.endswith(name))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def forget_endpoints() -> None:
    """fsspec keeps what it made of an environment."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def storage():
    """The server, which the environment names."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    server = Server()
    names = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    before = {name: os.environ.get(name) for name in (*names, "AWS_ENDPOINT_URL", "AWS_CONFIG_FILE")}
    os.environ |= names | {"AWS_ENDPOINT_URL": server.endpoint, "AWS_CONFIG_FILE": os.devnull}
    forget_endpoints()
    yield server
    server.close()
    forget_endpoints()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def s3(storage, tmp_path, monkeypatch, request):
    """The address of an empty bucket; the cache is empty, and pauses between attempts are short."""
    from data_prep import retries
    from data_prep.remote import objects as remote

    monkeypatch.setenv("SLAM_ASR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.01)
    storage.statuses, storage.damaged, storage.seconds = [], [], 0.0
    storage.seen.clear()
    storage.most = 0
    bucket = f"bucket-{abs(hash(request.node.name)) % 10**9}"
    remote._filesystem(f"s3://{bucket}/x")[0].mkdir(bucket)
    return f"s3://{bucket}"
