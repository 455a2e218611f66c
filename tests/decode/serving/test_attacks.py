"""What an attacker's hour found, and what must go on to hold: docs/serving.md has the whole table."""

import gc
import io
import os
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

from data_prep.audio.decode import encode_flac
from decode.serving import decoder as decoding
from decode.serving import server as serving
from decode.serving.connections import Limits
from model.sample_rate import SAMPLE_RATE
from tests.decode.conftest import noise
from tests.decode.serving.conftest import Running, running

SHORT = encode_flac(noise(0, SAMPLE_RATE))


def post(server: Running, data: bytes, headers: dict[str, str] | None = None, **fields: str) -> httpx.Response:
    url = server.url + "/v1/audio/transcriptions"
    return httpx.post(url, files={"file": ("a.flac", data)}, data=fields, headers=headers, timeout=60)


@pytest.fixture
def logged(server, monkeypatch) -> io.StringIO:
    log = io.StringIO()
    monkeypatch.setattr(server.service, "log", log)
    return log


def test_the_log_has_one_line_a_request_whatever_the_client_says(server, logged):
    forged = "x\nserve: 200, forged\r\x1b[31m\u2028"
    post(server, SHORT, {"X-Forwarded-For": "forged"})
    post(server, SHORT, response_format=forged)
    post(server, SHORT, model=forged)
    headers = {"Content-Type": b"a\x85b\x9b31m"}
    httpx.post(server.url + "/v1/audio/transcriptions", content=b"{}", headers=headers)  # pyright: ignore
    lines = logged.getvalue().split("\n")[:-1]
    assert len(lines) == 4 and all(line.startswith("serve: ") and line.isprintable() for line in lines)
    assert lines[0].endswith(", 127.0.0.1")


def test_a_folder_that_takes_no_upload_is_503(server, logged, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/dev/full/none")
    for data in (SHORT, bytes(2_000_000)):
        answer = post(server, data)
        assert answer.status_code == 503 and "cannot store the upload" in answer.json()["error"]["message"]
    assert "Traceback" not in logged.getvalue()


def test_more_samples_than_48_khz_stereo_are_refused(server):
    out = io.BytesIO()
    soundfile.write(out, np.zeros((12 * 384_000, 2), np.int16), 384_000, format="FLAC")
    answer = post(server, out.getvalue())
    assert answer.status_code == 200, answer.text
    out = io.BytesIO()
    soundfile.write(out, np.zeros((5 * 384_000, 8), np.int16), 384_000, format="FLAC")
    data = bytearray(out.getvalue())
    data[22:26] = (50 * 384_000).to_bytes(4, "big")  # declares 50 s
    answer = post(server, bytes(data))
    assert answer.status_code == 422 and "16 kHz mono" in answer.json()["error"]["message"]


def test_a_client_that_reads_nothing_is_ended(model, monkeypatch):
    monkeypatch.setattr(serving, "HEADER_SECONDS", 0.3)
    with running(model, Limits()) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        client.settimeout(1)
        with suppress(OSError):  # TimeoutError while the server waits, ConnectionResetError when it no longer does
            client.sendall(b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3000)
    # leaving `running` joins the server's thread: it hangs if the server waits for this client


def test_waiting_windows_do_not_grow_with_the_requests(model, monkeypatch):
    monkeypatch.setattr(decoding, "WAITING_WINDOWS", 8)
    long = encode_flac(noise(1, 90 * SAMPLE_RATE))
    most = 0
    with running(model, Limits()) as server:
        jobs = [server.service.decoder.submit(long, lambda _: None, lambda _: None) for _ in range(6)]
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline and not all(job.ended for job in jobs):
            most = max(most, sum(len(job.waiting) for job in jobs[3:]))
            time.sleep(0.005)
        for job in jobs:
            server.service.decoder.cancel(job)
        assert most <= 8


def test_clients_that_vanish_leave_no_open_recordings(server):
    def recordings() -> int:
        return sum("(deleted)" in os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink())

    gc.disable()
    try:
        before = recordings()
        for _ in range(5):
            with suppress(httpx.ReadTimeout):
                httpx.post(
                    server.url + "/v1/audio/transcriptions",
                    files={"file": ("a", encode_flac(noise(2, 1_440_000)))},
                    timeout=0.2,
                )
        deadline = time.monotonic() + 10
        while recordings() > before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert recordings() <= before
    finally:
        gc.enable()
