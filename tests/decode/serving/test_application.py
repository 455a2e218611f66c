"""The routes of a real server, by the clients that people have."""

import gc
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch

from data_prep.audio.decode import encode_flac
from decode.options import DecodeOptions
from decode.recordings.files import transcribe_each
from decode.recordings.outputs import as_format
from decode.serving import decoder as decoding
from decode.serving.connections import Limits
from tests.decode.conftest import noise
from tests.decode.serving.conftest import running

POST = "/v1/audio/transcriptions"


def recording(seed: int, seconds: float) -> bytes:
    return encode_flac(noise(seed, round(seconds * 16_000)))


LONG = recording(0, 75.0)  # three windows


def post(server, data: bytes = b"", **fields) -> httpx.Response:
    name = fields.pop("name", "a.flac")
    return httpx.post(server.url + POST, files={"file": (name, data)}, data=fields, timeout=60)


def expected(server, *data: bytes):
    return list(transcribe_each(server.service.decoder.model, data, DecodeOptions(max_new_tokens=8)))


def test_the_openai_client_gets_what_transcribe_gives_in_every_format(server):
    [transcript] = expected(server, LONG)
    with openai.OpenAI(base_url=server.url + "/v1", api_key="any") as client:
        create: Any = client.audio.transcriptions.create
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.models.retrieve("tiny").id == "tiny"
        assert create(file=("a.flac", LONG), model="tiny").text == transcript.text
        assert create(file=("a.flac", LONG), model="tiny", response_format="text") == transcript.text + "\n"
        for name in ("srt", "vtt"):
            assert create(file=("a.flac", LONG), model="tiny", response_format=name) == as_format(transcript, name)
        verbose = create(file=("a.flac", LONG), model="tiny", response_format="verbose_json", language="en")
        assert verbose.text == transcript.text and float(verbose.duration) == pytest.approx(75.0)
        assert [(s.start, s.end) for s in verbose.segments] == [
            (pytest.approx(s.start, abs=1e-3), pytest.approx(s.end, abs=1e-3)) for s in transcript.segments
        ]
        events = list(create(file=("a.flac", LONG), model="tiny", stream=True))
        assert "".join(event.delta for event in events[:-1]) == events[-1].text == transcript.text
        assert len(events) > 2 and events[-1].type == "transcript.text.done"
        with pytest.raises(openai.NotFoundError, match="ask for 'tiny'"):
            create(file=("a.flac", LONG), model="whisper-1")


def test_a_transcript_is_the_same_among_those_of_other_clients(server):
    clips = [recording(seed, 0.6 + 0.4 * (seed % 7)) for seed in range(30)]
    alone = [transcript.text for clip in clips for transcript in expected(server, clip)]
    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(lambda clip: post(server, clip), clips))
    assert [answer.json()["text"] for answer in answers] == alone
    figures = httpx.get(server.url + "/metrics").text
    batches = {
        line.split()[0]: float(line.split()[1])
        for line in figures.splitlines()
        if line.startswith("slam_asr_server_batch")
    }
    assert batches["slam_asr_server_batch_windows_sum"] > batches["slam_asr_server_batch_windows_count"]


@pytest.mark.parametrize(
    ("status", "says", "fields"),
    [
        (400, "file is empty", {"data": b""}),
        (400, "", {"data": b"no recording at all"}),
        (400, "", {"data": LONG[:5000]}),
        (400, "ffmpeg -i IN -ar", {"data": b"\0\0\0\x18ftypM4A \0\0\0\0" + bytes(500)}),
        (422, "too short", {"data": recording(1, 0.026)}),
        (422, "more than 100 s", {"data": encode_flac(np.zeros(101 * 16_000, np.float32))}),
        (404, "ask for 'tiny'", {"model": "whisper-1"}),
        (400, "response_format", {"response_format": "xml"}),
        (400, "prompt", {"prompt": "Names: Ann"}),
        (400, "temperature", {"temperature": "0.4"}),
        (400, "temperature", {"temperature": "nan"}),
        (400, "segment", {"timestamp_granularities[]": ["word", "segment"]}),
        (400, "did you mean", {"respons_format": "json"}),
        (400, "streamed", {"stream": "true", "response_format": "srt"}),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(server, status, says, fields):
    answer = post(server, **{"data": recording(1, 1.0), **fields})
    error = answer.json()["error"]
    assert answer.status_code == status and says in error["message"] and "\n" not in error["message"]
    assert error.keys() == {"message", "type", "param", "code"}


def test_addresses_methods_kinds_hosts_and_pages_are_checked(server):
    url = server.url
    assert httpx.get(url + "/v1/nothing").status_code == 404
    assert httpx.get(url + POST).status_code == 405
    assert httpx.post(url + POST, json={"file": "x"}).status_code == 415
    assert httpx.post(url + POST, data={"model": "tiny"}).status_code == 415
    assert httpx.post(url + POST, files={"file": (None, b"x")}).status_code == 400
    assert httpx.get(url + "/v1/models", headers={"Host": "rebound.example"}).status_code == 421
    assert httpx.get(url + "/v1/models", headers={"Host": "[::1"}).status_code == 400
    for origin in ("http://elsewhere.example", "null", "http://["):
        assert httpx.get(url + "/v1/models", headers={"Origin": origin}).status_code == 403
    assert "access-control-allow-origin" not in httpx.get(url + "/v1/models", headers={"Origin": url}).headers
    assert post(server, recording(1, 1.0), name="../../etc/passwd").status_code == 200
    assert httpx.get(url + "/health").json() == {"status": "ok"} and "html" in httpx.get(url).text


def test_a_body_that_is_too_large_is_refused_before_its_end(server):
    head = f"POST {POST} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(5_000_000)
    for rest in (
        b"Content-Length: 1000000000\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b" % (len(part) + 1, part),
    ):
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=20) as client:
            client.sendall(head.encode() + rest)  # and no more
            assert client.recv(1000).startswith(b"HTTP/1.1 413 ")
    answer = post(server, b"x" * 5_000_000)
    assert answer.status_code == 413 and answer.json()["error"]["message"].endswith("4 MB, the most allowed")


def test_a_client_that_goes_away_leaves_nothing_behind(server):
    for fields in ({}, {"stream": "true"}):
        with pytest.raises(httpx.TimeoutException):
            httpx.post(server.url + POST, files={"file": ("a.flac", LONG)}, data=fields, timeout=0.05)
    deadline = time.monotonic() + 20
    while server.service.places.clients.total() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not server.service.places.clients and not server.service.decoder._jobs
    gc.collect()  # a temporary file that is left would warn


def test_a_token_and_a_place_are_needed(model):
    with running(model, Limits(requests=1, per_client=1), token="secret") as server:
        assert post(server, LONG).status_code == 401
        assert httpx.get(server.url + "/metrics").status_code == 401
        ours = {"Authorization": "Bearer secret"}
        assert httpx.get(server.url + "/v1/models", headers=ours).status_code == 200
        with server.service.places.place("127.0.0.1"):
            full = httpx.post(server.url + POST, files={"file": ("a", LONG)}, headers=ours)
        assert full.status_code == 429 and int(full.headers["Retry-After"]) > 0
        server.service.draining = True
        assert httpx.get(server.url + "/health").json() == {"status": "draining"}
        draining = httpx.post(server.url + POST, files={"file": ("a", LONG)}, headers=ours)
        assert draining.status_code == 503 and draining.headers["Retry-After"]


def test_a_fault_of_decoding_is_its_own_requests_and_a_dead_decoder_is_said(model, monkeypatch):
    answers_to, bad = decoding.answers_to, {1.5}

    def failing(model, windows, options):
        if any(round(stretch.samples / 16_000, 1) in bad for _, stretch in windows):
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return answers_to(model, windows, options)

    monkeypatch.setattr(decoding, "answers_to", failing)
    with running(model, Limits()) as server:
        with ThreadPoolExecutor(6) as pool:
            clips = [recording(seed, 1.5 if seed == 3 else 1.0) for seed in range(6)]
            answers = list(pool.map(lambda clip: post(server, clip), clips))
        assert [answer.status_code for answer in answers] == [200, 200, 200, 500, 200, 200]
        assert answers[3].json()["error"]["message"].endswith("CUDA out of memory.")
        monkeypatch.setattr(decoding, "chosen", lambda *_: 1 / 0)
        assert post(server, recording(1, 1.0)).status_code == 500
        server.service.decoder._thread.join()
        assert httpx.get(server.url + "/health").status_code == 503
        assert post(server, recording(1, 1.0)).status_code == 503


def test_an_error_of_a_stream_is_an_event(server):
    half = len(LONG) // 2
    broken = LONG[:half] + bytes(2000) + LONG[half + 2000 :]
    answer = post(server, broken, stream="true")
    if answer.status_code == 200:
        last = json.loads(answer.text.strip().rsplit("data: ", 1)[1])
        assert last["error"]["status"] == 400 and "\n" not in last["error"]["message"]
    else:
        assert answer.status_code == 400
