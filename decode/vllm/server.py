"""Requests to a vLLM server: its models and its completions, with retries, and errors of one line.

A request is repeated while the fault may pass: no connection, an answer that is cut off or late, 408, 429 and statuses
from 500 on. Other statuses are final. The server's messages are shown, shortened."""

import json
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import httpx

from data_prep.addresses import without_secrets
from data_prep.text import printable
from model.errors import TransientError, UserError, counted

CONCURRENT = 32  # requests at a time, each of one window; vLLM batches what is waiting
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 300.0  # a 30 s window has at most 758 tokens
ATTEMPTS, PATIENCE_SECONDS = 6, 90.0  # no attempt starts after these
FIRST_PAUSE_SECONDS = 0.5  # each pause is twice the one before, give or take a half
API_KEY = "VLLM_API_KEY"  # environment, as for vLLM's own --api-key
Item = TypeVar("Item")
Result = TypeVar("Result")


class Completion(NamedTuple):
    """One answer."""

    tokens: list[int]  # the stop token included, if it ended with one
    logprobs: list[float]  # nats, one a token, before penalties (vLLM's default --logprobs-mode)
    stopped: bool  # by the stop token; False at max_tokens


class PassingError(Exception):
    """A fault that may be gone at the next attempt; the message is a few words."""


class Server:
    """A server at `url`, which ends in /v1. Its methods may be called from several threads at a time."""

    def __init__(self, url: str) -> None:
        self.url, self.shown = url, f"vLLM at {without_secrets(url)}"
        key = os.environ.get(API_KEY)
        self.client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=CONCURRENT, max_keepalive_connections=CONCURRENT),
        )

    def models(self) -> list[dict[str, Any]]:
        """The entries of /v1/models; asked once, as a server that is not up yet may take minutes."""
        try:
            entries = self._answer("GET", "models", None)["data"]
            return [entry for entry in entries if isinstance(entry["id"], str)]
        except PassingError as error:
            start = "start it, `vllm serve LLM --enable-prompt-embeds`, or correct --backend"
            raise TransientError(f"{self.shown} cannot be used: {error}; {start}") from None
        except (KeyError, TypeError):
            raise UserError(f"{self.shown} lists no models; check that --backend is a vLLM server") from None

    def complete(self, request: dict[str, Any]) -> Completion:
        """The completion of one prompt. TransientError in the end, UserError for what no attempt can change."""
        began, pause = time.monotonic(), FIRST_PAUSE_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._completion(self._answer("POST", "completions", request))
            except PassingError as error:
                waited = time.monotonic() - began
                if attempt == ATTEMPTS or waited > PATIENCE_SECONDS:
                    tries = f"no answer after {counted(attempt, 'try', 'tries')} in {waited:.0f} s ({error})"
                    again = "run the same command when it is there again"
                    raise TransientError(f"{self.shown}: {tries}; {again}") from None
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause *= 2
        raise AssertionError

    def _answer(self, method: str, path: str, content: dict[str, Any] | None) -> dict[str, Any]:
        try:
            response = self.client.request(method, f"{self.url}/{path}", json=content)
        except httpx.TimeoutException:
            raise PassingError("no answer in time") from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise PassingError(_line(str(error)) or type(error).__name__) from None
        status, said = response.status_code, _message(response)
        if status in (408, 429) or (status >= 500 and status != 501):
            raise PassingError(f"HTTP status {status}{said and f', {said}'}")
        if status == 401:
            raise UserError(f"{self.shown} asks for a key: set {API_KEY} to that of its --api-key")
        if "--enable-prompt-embeds" in said:
            raise UserError(f"{self.shown} takes no prompt embeddings; start it with --enable-prompt-embeds")
        if status != 200:
            raise UserError(f"{self.shown} refuses a request: HTTP status {status}{said and f', {said}'}")
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise UserError(f"{self.shown}: {path} is no JSON object; check that --backend is a vLLM server")
        return answer

    def _completion(self, answer: dict[str, Any]) -> Completion:
        try:
            [choice] = answer["choices"]
            reason, tokens = choice["finish_reason"], choice.get("token_ids")
            if reason not in ("stop", "length"):
                raise PassingError(f"an answer ended by {reason!r}")
            if tokens is None:
                raise UserError(f"{self.shown} returns no token ids; vLLM 0.11 and later do")
            logprobs = [float("nan") if value is None else value for value in choice["logprobs"]["token_logprobs"]]
            if not tokens or len(logprobs) != len(tokens) or not all(isinstance(token, int) for token in tokens):
                raise TypeError
            return Completion(tokens, [float(value) for value in logprobs], reason == "stop")
        except UserError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError):
            shown = _line(json.dumps(answer))
            raise UserError(f"{self.shown}: not an answer of its completions endpoint, {shown}") from None


def together(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """[work(item), ...], up to CONCURRENT at a time; the first error is raised at once, and no further item begins.
    The threads are daemons: a Ctrl-C, or an error, does not wait for the answers that are still on their way."""
    waiting, done = queue.SimpleQueue[int](), queue.SimpleQueue[tuple[int, Any]]()
    for number in range(len(items)):
        waiting.put(number)

    def answer() -> None:
        while True:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((number, work(items[number])))
            except BaseException as error:
                done.put((-1, error))

    for _ in range(min(CONCURRENT, len(items))):
        threading.Thread(target=answer, daemon=True).start()
    results: dict[int, Result] = {}
    try:
        while len(results) < len(items):
            number, result = done.get()
            if number < 0:
                raise result
            results[number] = result
    finally:
        while not waiting.empty():
            try:
                waiting.get_nowait()
            except queue.Empty:
                break
    return [results[number] for number in range(len(items))]


def _message(response: httpx.Response) -> str:
    """What the server says about an error: of its JSON's `error`, or `message` before vLLM 0.10."""
    if response.status_code == 200:
        return ""
    try:
        said = response.json()
        said = said.get("error", said)
        return _line(str(said.get("message", said)))
    except (ValueError, AttributeError):
        return _line(response.text)


def _line(text: str) -> str:
    return printable(" ".join(text.split()))[:200]
