"""What clients do wrong, or on purpose: a real server refuses it, and serves the others."""

import socket
import time
from contextlib import ExitStack

import httpx
import numpy as np
import pytest

from data_prep.audio.decode import encode_flac
from decode.serving import connections
from decode.serving import server as serving
from decode.serving.connections import Limits
from tests.decode.conftest import noise
from tests.decode.serving.conftest import Running, running

HEAD = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\n"
FORM = HEAD + b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 900000\r\n\r\n"
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.flac"\r\n\r\n'
TOTAL_SAMPLES = 22  # where a FLAC file has the lower 32 of 36 bits, in its STREAMINFO block (RFC 9639, 8.2)
SHORT = encode_flac(noise(0, 16_000))


def opened(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=20)


def post(server: Running, data: bytes) -> httpx.Response:
    return httpx.post(server.url + "/v1/audio/transcriptions", files={"file": ("a.flac", data)}, timeout=60)


def require_free(server: Running) -> None:
    """Every place and every job is given back, soon."""
    deadline = time.monotonic() + 20
    while server.service.places.clients.total() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not server.service.places.clients and not server.service.decoder._jobs


def test_an_upload_that_is_cut_gives_its_place_back(server):
    for data in (FORM, FORM + PART, FORM + PART + SHORT + bytes(100_000)):
        with opened(server) as client:
            client.sendall(data)
            deadline = time.monotonic() + 10
            while not server.service.places.clients and time.monotonic() < deadline:
                time.sleep(0.01)
    require_free(server)


def test_what_comes_too_slowly_is_ended(model, monkeypatch):
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(serving, "HEADER_SECONDS", 0.3)
    with running(model, Limits()) as server:
        with opened(server) as upload, opened(server) as silent, opened(server) as header:
            upload.sendall(FORM + PART)
            header.sendall(HEAD)
            assert upload.recv(1000).startswith(b"HTTP/1.1 408 ")
            assert silent.recv(1000) == header.recv(1000) == b""
        monkeypatch.setattr(connections, "START_SECONDS", 0.5)
        with opened(server) as dripping:
            dripping.sendall(FORM + PART)
            with pytest.raises((BrokenPipeError, ConnectionResetError, StopIteration)):
                for _ in range(200):
                    time.sleep(0.05)
                    dripping.sendall(b"x")
                    dripping.setblocking(False)
                    try:
                        assert dripping.recv(1000).startswith(b"HTTP/1.1 408 ")
                        raise StopIteration
                    except BlockingIOError:
                        dripping.setblocking(True)
        require_free(server)


def test_a_thousand_connections_leave_the_server_to_others(server):
    serving.allow_connections()
    with ExitStack() as stack:
        for number in range(1000):
            client = stack.enter_context(opened(server))
            client.sendall(HEAD if number % 2 else b"")
        began = time.monotonic()
        assert post(server, SHORT).status_code == 200
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("said", [0, 100, 16_000_000, 2**32 - 1])
def test_a_length_that_is_not_so_is_refused_and_takes_no_memory(server, said):
    data = bytearray(encode_flac(np.zeros(40 * 16_000, np.float32)))
    data[TOTAL_SAMPLES : TOTAL_SAMPLES + 4] = said.to_bytes(4, "big")
    answer = post(server, bytes(data))
    assert answer.status_code in (400, 422), answer.text
    assert "\n" not in answer.json()["error"]["message"]


def test_half_a_request_or_none_is_answered_or_ended(server):
    for sent in (b"\r\n\r\n", b"GET", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", HEAD + b"X" * 70_000):
        with opened(server) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1000)[:12] in (b"", b"HTTP/1.1 400")
    assert httpx.get(server.url + "/health").status_code == 200
