"""`slam-asr serve` as a process: stopped while it works, and started where it cannot be."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from data_prep.audio.decode import encode_flac
from tests.decode.conftest import noise

COMMAND = [sys.executable, "-m", "launch", "serve"]
CLIENTS = 12


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_accepted_is_answered_after_a_signal(tiny, number):
    with _started(tiny.adapter) as (process, url), ThreadPoolExecutor(CLIENTS) as pool:
        waiting = [pool.submit(_post, url, encode_flac(noise(seed, 12 * 16_000))) for seed in range(CLIENTS)]
        while (accepted := _active(url)) < CLIENTS and not any(answer.done() for answer in waiting):
            time.sleep(0.01)
        process.send_signal(number)
        codes = [answer.result() for answer in waiting]  # 503 or no connection: not accepted, as it came later
        assert codes.count(200) >= accepted > 0 and set(codes) <= {200, 503, None}
        assert process.wait(20) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(url + "/health")
        assert process.stderr is not None and "everything accepted was answered" in process.stderr.read()


def test_a_second_signal_ends_it_at_once_and_says_what_was_not_answered(tiny):
    with _started(tiny.adapter) as (process, url), socket.create_connection(_address(url)) as stalled:
        stalled.sendall(b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n")
        stalled.sendall(b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x")
        while _active(url) < 1:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None and "requests left to answer: 1" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 1
        assert process.stderr.read() == "serve: SIGTERM: ended; requests that were not answered: 1\n"


def test_a_port_that_is_taken_is_one_line_and_exit_code_2(tiny):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run([*COMMAND, tiny.adapter, "--port", port], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and f"port {port}" in done.stderr


def _post(url: str, data: bytes) -> int | None:
    """The status code; None without a connection."""
    try:
        return httpx.post(f"{url}/v1/audio/transcriptions", files={"file": ("a.flac", data)}, timeout=60).status_code
    except httpx.ConnectError:
        return None


def _address(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


def _active(url: str) -> float:
    [line] = [s for s in httpx.get(url + "/metrics").text.splitlines() if s.startswith("slam_asr_server_active")]
    return float(line.split()[1])


class _started:
    """A server that runs; ended at once at the end of the block."""

    def __init__(self, adapter) -> None:
        options = ["--port", "0", "--max-new-tokens", "40", "--device", "cpu"]
        environment = os.environ | {"SLAM_ASR_TOKEN": ""}
        self.process = subprocess.Popen(
            [*COMMAND, adapter, *options], stderr=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self):
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"http://\S+", line):
                return self.process, found[0]
        raise AssertionError(f"the server ended with {self.process.wait()}")

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()
