"""Bytes at addresses, against a real S3 server (object_storage.py) and a web server that knows little."""

import gzip
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest

from data_prep import retries
from data_prep.recordings import open as remote_recordings
from data_prep.recordings.open import Stretch
from data_prep.remote import objects as remote
from data_prep.retries import Forbidden, Missing, RemoteError
from data_prep.shards.opening import read_index
from model.errors import UserError

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")


def test_bytes_go_there_and_come_back(s3, tmp_path):
    data = np.random.default_rng(0).bytes(20 << 20)
    (tmp_path / "big").write_bytes(data)
    remote.upload(tmp_path / "big", f"{s3}/a/big")
    remote.write_bytes(f"{s3}/a/small", b"0123456789")
    assert remote.listing(f"{s3}/a") == ["big", "small"] and remote.listing(f"{s3}/nothing") == []
    assert remote.read_bytes(f"{s3}/a/small", 3, 4) == b"3456" and remote.read_bytes(f"{s3}/a/small", 20, 4) == b""
    assert remote.read_bytes(f"{s3}/a/big") == data
    assert remote.download(f"{s3}/a/big", tmp_path / "back") == len(data)
    assert (tmp_path / "back").read_bytes() == data
    assert remote.sizes([f"{s3}/a/small", f"{s3}/a/none", f"{s3}/a"]) == [10, -1, -1]
    recording = remote_recordings.recording(f"{s3}/a/big")
    assert isinstance(recording, Stretch)
    with recording.open() as file:  # as libsndfile reads: the head, the end, somewhere, straight on
        assert file.read(12) == data[:12] and file.seek(0, 2) == len(data)
        file.seek(9 << 20)
        assert file.read() == data[9 << 20 :]
    remote.remove(f"{s3}/a/small")
    remote.remove(f"{s3}/a/small")
    assert remote.size(f"{s3}/a/small") == -1


def test_what_may_pass_is_tried_again_and_counted(s3, storage):
    remote.write_bytes(f"{s3}/x", b"here")
    before = retries.retries()
    storage.statuses = [503, 500, 503]
    assert remote.read_bytes(f"{s3}/x") == b"here"
    assert retries.retries() == before + 3
    storage.statuses = [503] * 3
    assert remote.size(f"{s3}/x") == 4


def test_what_does_not_pass_is_one_line_after_a_bounded_time(s3, storage, monkeypatch):
    storage.statuses = [503] * 100
    with pytest.raises(RemoteError, match=rf"^{s3}/x: .* 8 tries .*503"):
        remote.read_bytes(f"{s3}/x")
    assert len(storage.statuses) == 100 - retries.ATTEMPTS
    monkeypatch.setattr(retries, "PATIENCE_SECONDS", -1.0)
    with pytest.raises(RemoteError, match="1 try"):
        remote.write_bytes(f"{s3}/x", b"here")


@pytest.mark.parametrize("status, kind", [(404, Missing), (403, Forbidden), (400, RemoteError)])
def test_what_cannot_pass_is_said_at_once(s3, storage, status, kind):
    storage.statuses = [status] * 2
    with pytest.raises(kind) as caught:
        remote.read_bytes(f"{s3}/x")
    assert len(storage.statuses) == 1 and "\n" not in str(caught.value) and f"{s3}/x" in str(caught.value)


def test_addresses_that_are_not_read_are_refused(monkeypatch):
    for url in (
        "ftp://host/x",
        "simplecache::s3://bucket/x",
        "s3://bucket/a::file:///etc/passwd",
        "file:///etc/passwd",
    ):
        with pytest.raises(UserError, match=re.escape(repr(url))):
            remote.read_bytes(url)
    with pytest.raises(UserError, match="https://host/x"):
        remote.write_bytes("https://host/x", b"")
    monkeypatch.setitem(remote.NEEDS, "s3", "no_such_package")
    with pytest.raises(UserError, match="no_such_package"):
        remote.read_bytes("s3://bucket/x")


def test_secrets_in_an_address_are_not_printed(s3, storage):
    url = f"{storage.endpoint.replace('//', '//user:hunter2@')}/nothing/x.wav?X-Amz-Signature=hunter2"
    with pytest.raises(RemoteError) as caught:
        remote.read_bytes(url)
    assert "hunter2" not in str(caught.value) and "/nothing/x.wav" in str(caught.value)
    with pytest.raises(UserError, match="^s3://bucket/data: ") as caught:
        read_index("s3://user:hunter2@bucket/data")
    assert "hunter2" not in str(caught.value)


def test_a_web_server_without_ranges_gives_small_files_alone(tmp_path, monkeypatch):
    data = np.random.default_rng(0).bytes(100_000)
    (tmp_path / "a b.wav").write_bytes(data)
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert remote.read_bytes(f"{url}/a%20b.wav?token=1") == data and remote.size(f"{url}/a%20b.wav") == len(data)
        assert remote.read_bytes(f"{url}/a%20b.wav", 99_990, 100) == data[99_990:]
        assert remote.size(f"{url}/none") == -1
        with pytest.raises(Missing, match=f"{url}/none;"):
            remote.read_bytes(f"{url}/none?token=1")
        monkeypatch.setattr(remote, "NO_RANGES_BYTES", 99_999)
        with pytest.raises(RemoteError, match="a%20b.wav.* no ranges"):
            remote.read_bytes(f"{url}/a%20b.wav", 10, 10)
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


class Liar(QuietHandler):
    """Answers a request for a range of /name as `LIES[name]` says: status, headers, body."""

    def do_GET(self) -> None:
        status, headers, body = LIES[self.path[1:]]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):
            for piece in body:
                self.wfile.write(piece)


def drip() -> Iterator[bytes]:
    while True:
        time.sleep(1.0)
        yield b"x"


RANGE = {"Content-Range": "bytes 0-9/10"}
LIES = {
    "true": (206, RANGE, [b"0123456789"]),
    "more": (206, RANGE, repeat(bytes(1 << 20))),
    "other": (206, {"Content-Range": "bytes 5-14/20"}, [b"0123456789"]),
    "no-range": (206, {}, [b"0123456789"]),
    "gzip": (206, RANGE | {"Content-Encoding": "gzip"}, [gzip.compress(b"0123456789")]),
    "endless": (200, {}, repeat(bytes(1 << 20))),
    "slow": (206, RANGE, drip()),
}
REFUSALS = {
    "more": "10 bytes",
    "other": "byte 0.*'bytes 5-14/20'",
    "no-range": "byte 0.*''",
    "gzip": "compressed",
    "endless": "no ranges",
    "slow": "no answer in time",
}


def test_a_web_server_that_lies_is_not_read(monkeypatch):
    from fsspec.implementations.http import HTTPFileSystem

    monkeypatch.setattr(retries, "PATIENCE_SECONDS", 0.5)
    with ThreadingHTTPServer(("127.0.0.1", 0), Liar) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert remote.read_bytes(f"{url}/true", 0, 10) == b"0123456789"
        for name, refusal in REFUSALS.items():
            if name == "slow":  # alone, as the others must answer in time however busy the machine is
                monkeypatch.setattr(remote, "WEB_SECONDS", 0.7)
                HTTPFileSystem.clear_instance_cache()
            with pytest.raises(RemoteError, match=f"^{url}/{name}: .*{refusal}"):
                remote.read_bytes(f"{url}/{name}", 0, 10)
        monkeypatch.setattr(remote, "DOCUMENT_BYTES", 30)
        monkeypatch.setattr(remote, "PIECE_BYTES", 10)
        monkeypatch.setattr(remote, "_read", lambda url, first, length: bytes(length))
        with pytest.raises(RemoteError, match="30 bytes"):
            remote.read_bytes(f"{url}/true")
        server.shutdown()
    HTTPFileSystem.clear_instance_cache()


def test_a_stated_size_takes_neither_memory_nor_disk(s3, tmp_path, monkeypatch):
    remote.write_bytes(f"{s3}/x", b"here")
    assert b"".join(remote.pieces(f"{s3}/x", 10**18)) == b"here"
    monkeypatch.setattr(remote, "size", lambda url: 10**18)
    with pytest.raises(RemoteError, match=f"1,000,000,000,000,000,000 bytes.*{tmp_path}"):
        remote.download(f"{s3}/x", tmp_path / "x")
    assert not list(tmp_path.glob("*x*"))


FORKED = """
import os, sys
from data_prep.remote import objects as remote
url = sys.argv[1]
assert remote.size(url) == 4
child = os.fork()
if not child:
    os._exit(remote.read_bytes(url) != b"here")
assert os.waitpid(child, 0)[1] == 0 and remote.read_bytes(url) == b"here"
"""


def test_a_forked_process_reads_too(s3):
    remote.write_bytes(f"{s3}/x", b"here")
    subprocess.run([sys.executable, "-c", FORKED, f"{s3}/x"], cwd=ROOT, check=True, timeout=600)
