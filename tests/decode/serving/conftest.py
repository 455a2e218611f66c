"""A real server with the tiny recogniser, on a port of its own."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from decode.options import DecodeOptions
from decode.serving.connections import Limits
from decode.serving.decoder import Decoder
from decode.serving.metrics import Metrics
from decode.serving.server import Server, bind
from decode.serving.service import Service
from model.slam_asr import SlamAsr


class Running(NamedTuple):
    url: str
    service: Service


@contextmanager
def running(model: SlamAsr, limits: Limits, token: str | None = None) -> Iterator[Running]:
    metrics = Metrics()
    decoder = Decoder(model, DecodeOptions(max_new_tokens=8), metrics, max_seconds=limits.seconds)
    service = Service(decoder, metrics, "tiny", limits, token=token, log=None)
    listening = bind("127.0.0.1", 0)
    server = Server(service)
    thread = threading.Thread(target=lambda: server.run([listening]))
    thread.start()
    while not server.started:
        thread.join(0.02)
    try:
        yield Running(f"http://127.0.0.1:{listening.getsockname()[1]}", service)
    finally:
        server.should_exit = True
        thread.join()
        decoder.close()


@pytest.fixture(scope="session")
def server(model) -> Iterator[Running]:
    with running(model, Limits(megabytes=4.0, seconds=100.0, requests=64, per_client=64)) as one:
        yield one
