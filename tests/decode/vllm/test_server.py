"""Faults of a server: repeated while they may pass, else one line; Ctrl-C does not wait."""

import threading
import time
from collections.abc import Iterator

import pytest

from decode.vllm import server as requests
from decode.vllm.server import CONCURRENT, Server, together
from model.errors import TransientError, UserError
from model.llm import load_llm
from tests.decode.vllm.endpoint import Endpoint, Handler, serving
from tests.tiny import tiny_models


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory) -> Iterator[Endpoint]:
    llm = load_llm(str(tiny_models(tmp_path_factory.mktemp("tiny"))[1]), "float32")
    with serving(Endpoint(llm, "llm")) as running:
        yield running


@pytest.fixture
def server(endpoint, monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(requests, "FIRST_PAUSE_SECONDS", 0.001)
    endpoint.faults, endpoint.requests = [], []
    made = Server(f"{endpoint.url}/v1")
    yield made
    made.client.close()


ASKED = {"model": "llm", "prompt": [5, 6, 7], "max_tokens": 4, "temperature": 0.0, "repetition_penalty": 1.0}
ASKED |= {"ignore_eos": True, "stop_token_ids": [1], "return_token_ids": True, "logprobs": 0}


def hang_up(handler: Handler) -> None:
    handler.close_connection = True


def cut(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{')
    handler.close_connection = True


def slow(handler: Handler) -> None:
    time.sleep(0.5)
    handler.close_connection = True


def busy(handler: Handler) -> None:
    handler.refuse(503, "the engine\nis starting")


def aborted(handler: Handler) -> None:
    handler.answer(200, {"choices": [{"finish_reason": "abort", "token_ids": [], "logprobs": None}]})


def test_what_may_pass_is_repeated(server, endpoint, monkeypatch):
    monkeypatch.setattr(server.client, "timeout", 0.2)
    expected = server.complete(ASKED)
    endpoint.faults = [hang_up, cut, slow, busy, aborted]
    assert server.complete(ASKED) == expected and len(endpoint.requests) == 7
    assert len(expected.tokens) == 4 and not expected.stopped and max(expected.logprobs) <= 0


def test_what_does_not_pass_is_an_error_of_one_line(server, endpoint):
    endpoint.faults = [busy] * requests.ATTEMPTS
    with pytest.raises(TransientError, match=r"no answer after 6 tries in 0 s \(HTTP status 503, the engine is start"):
        server.complete(ASKED)
    with serving(Endpoint(endpoint.llm, "llm")) as other:
        gone = Server(f"{other.url}/v1")
        gone.complete(ASKED)
    with pytest.raises(
        TransientError, match=r"no answer after 6 tries .*; run the same command when it is there again"
    ):
        gone.complete(ASKED)
    gone.client.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "completions is no JSON object; check that --backend is a vLLM server"),
        ([1], "completions is no JSON object"),
        ({"choices": []}, r'not an answer of its completions endpoint, \{"choices": \[\]\}'),
        ({"choices": [{"finish_reason": "stop", "token_ids": [1]}]}, "not an answer of its completions endpoint"),
        (
            {"choices": [{"finish_reason": "stop", "token_ids": [1], "logprobs": {"token_logprobs": []}}]},
            "not an answer of its completions endpoint",
        ),
        ({"choices": [{"finish_reason": "stop", "text": "a"}]}, "returns no token ids; vLLM 0.11 and later do"),
    ],
)
def test_answers_of_other_kinds_are_not_repeated(server, endpoint, content, message):
    endpoint.faults = [lambda handler: handler.answer(200, content)]
    with pytest.raises(UserError, match=message) as raised:
        server.complete(ASKED)
    assert len(endpoint.requests) == 1 and len(str(raised.value)) < 400


def test_a_refusal_is_shown_and_not_repeated(server, endpoint):
    with pytest.raises(UserError, match="refuses a request: HTTP status 404, The model `other` does not exist"):
        server.complete(ASKED | {"model": "other"})
    assert len(endpoint.requests) == 1
    endpoint.faults = [lambda handler: handler.answer(422, {"object": "error", "message": "of an old version"})]
    with pytest.raises(UserError, match="HTTP status 422, of an old version"):
        server.complete(ASKED)


def test_items_run_side_by_side_in_order_and_stop_at_the_first_error():
    most, running, lock, begun = 0, 0, threading.Lock(), []

    def work(item: int) -> int:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
            begun.append(item)
        time.sleep(0.01)
        with lock:
            running -= 1
        if item == -1:
            raise UserError("wrong")
        return 2 * item

    assert together(work, list(range(100))) == list(range(0, 200, 2)) and 1 < most <= CONCURRENT
    begun.clear()
    with pytest.raises(UserError, match="wrong"):
        together(work, [-1, *range(1000)])
    time.sleep(0.05)
    assert len(begun) < 1000 and together(work, []) == []
