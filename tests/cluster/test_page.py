"""The server's page in a real Chromium, against a real server of the stand-ins: files, the microphone, errors.

Of every test: no request leaves the server, nothing is written to the console, nothing breaks the page's own policy."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.audio.decode import decode, encode_flac, encode_wav
from data_prep.synth import corpus
from decode.recordings.outputs import as_format
from decode.recordings.transcript import Segment, Transcript
from tests.cluster.chromium import (
    DRAWN,
    KEEP_WHAT_IS_SENT,
    address_of,
    ask,
    choose,
    drop,
    fetch,
    read,
    similarity,
    wait_for_text,
)
from tests.cluster.conftest import require
from tests.ranks import ROOT

ADAPTER = ROOT / "model" / "stand_in" / "adapter"
TOKEN = "a-token-of-the-test"
HTTP_ERROR = re.compile(r"Failed to load resource: (the server responded with a status of \d+|net::ERR_FAILED)")


@pytest.fixture(scope="module")
def speech() -> tuple[str, np.ndarray]:
    """A sentence that the stand-ins know, and float32 [N] of it spoken."""
    ((line, wave, _),) = corpus.perform(corpus.script("dev", 1, 1, corpus.installed("dev")))
    return line.text, wave


@pytest.fixture(scope="module")
def spoken(speech) -> tuple[str, bytes]:
    """The same as FLAC."""
    return speech[0], encode_flac(speech[1])


@pytest.fixture(scope="module")
def servers(tmp_path_factory) -> Iterator[list[str]]:
    """The addresses of two servers; the second wants TOKEN."""
    require("chromium")
    command = [sys.executable, "-m", "launch.command", "serve", str(ADAPTER), "--port=0", "--max-megabytes=4"]
    logs = [tmp_path_factory.mktemp("servers") / name for name in ("open", "with_token")]
    with ExitStack() as running:
        processes = []
        for log, token in zip(logs, ["", TOKEN], strict=True):
            environment = os.environ | {"SLAM_ASR_TOKEN": token}
            file = running.enter_context(open(log, "wb"))
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=file, stdin=subprocess.DEVNULL)
            running.callback(process.wait, 60)
            running.callback(process.terminate)
            processes.append(process)
        yield [address_of(log, process) for log, process in zip(logs, processes, strict=True)]


@pytest.fixture
def server(servers) -> str:
    return servers[0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory, speech) -> Iterator[Any]:
    """A Chromium whose microphone hears `speech`, once."""
    require("chromium")
    from playwright.sync_api import sync_playwright

    heard = tmp_path_factory.mktemp("microphone") / "heard.wav"
    heard.write_bytes(encode_wav(speech[1]))
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    flags += [f"--use-file-for-fake-audio-capture={heard}%noloop", "--autoplay-policy=no-user-gesture-required"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser) -> Iterator[Callable[..., Any]]:
    """Opens the page of a server; afterwards looks at what it asked for and what the console says."""
    pages, complaints = [], []

    def opened(address: str, **settings: Any) -> Any:
        context = browser.new_context(permissions=["clipboard-read", "clipboard-write"], **settings)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: HTTP_ERROR.match(message.text) or complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        asked: list[str] = []
        page.goto(address)
        pages.append((page, address, asked))
        return page

    yield opened
    for page, address, asked in pages:
        page.context.close()
        assert asked and not [url for url in asked if not url.startswith((address, f"blob:{address}"))]
    assert complaints == []


def test_a_dropped_file_is_seen_read_heard_copied_and_saved(server, visit, spoken):
    text, flac = spoken
    page = visit(server)
    wait_for_text(page, "#model", ".")
    assert page.inner_text("#model") in fetch(f"{server}/v1/models")
    drop(page, "mönday.flac", flac)
    assert read(page) == text
    assert page.inner_text("#name") == "mönday.flac" and page.locator("#again").is_hidden()
    page.wait_for_selector("#player", state="visible")
    assert page.evaluate(DRAWN) > 1  # bars, and nothing between them
    page.click("#segments button")
    page.wait_for_selector("#segments li.now")
    page.focus("#wave")
    page.keyboard.press("End")
    page.wait_for_selector("#play:not(.playing)")
    page.keyboard.press("Home")
    assert page.get_attribute("#wave", "aria-valuetext") == "0:00 of 0:02"
    page.click("#copy")
    wait_for_text(page, "#copy", "Copied")
    assert page.evaluate("navigator.clipboard.readText()") == f"{text}\n"
    for name in ("txt", "srt", "vtt"):
        with page.expect_download() as saved:
            page.click(f"[data-format={name}]")
        assert saved.value.suggested_filename == f"mönday.{name}"
        content = Path(saved.value.path()).read_text()
        assert content == (f"{text}\n" if name == "txt" else ask(server, flac, name))


def test_what_the_microphone_hears_is_recorded_sent_and_read_or_discarded(server, visit, speech):
    page = visit(server)
    page.evaluate(KEEP_WHAT_IS_SENT)
    page.click("#record")
    wait_for_text(page, "#elapsed", "0:03")
    page.keyboard.press("Enter")  # the focus is on Stop
    text = read(page)
    sent = base64.b64decode(page.evaluate("window.sent.then((bytes) => btoa(String.fromCharCode(...bytes)))"))
    assert text == ask(server, sent, "text").strip()
    assert similarity(decode(sent), speech[1]) > 0.8  # the stand-ins may be led astray by the silence around it
    name = page.inner_text("#name")
    assert name.startswith("recording 20") and page.locator("#offer").is_visible()
    page.click("#record")
    page.click("#discard")
    page.wait_for_selector("#offer", state="visible")
    assert page.inner_text("#name") == name


def test_a_file_that_only_the_browser_can_read_is_sent_as_wav(server, visit, spoken):
    page = visit(server)
    drop(page, "memo.m4a", spoken[1])  # to the server a name that it does not read; the browser looks at the content
    assert read(page) == spoken[0]


def test_an_error_is_one_line_and_a_retry_is_offered_only_where_it_may_help(server, visit, spoken):
    page = visit(server)
    drop(page, "notes.flac", b"no recording " * 100)
    page.wait_for_selector("#message", state="visible")
    told = page.inner_text("#message span")
    assert re.match(r"This .*: .", told) and "\n" not in told and page.locator("#transcript").is_hidden()
    choose(page, "large.wav", spoken[1] + bytes(5_000_000))
    wait_for_text(page, "#message", "^This recording is too large: the request is larger than 4 MB")
    assert page.locator("#again").is_hidden()
    drop(page, "a.flac", spoken[1], count=2)
    assert page.inner_text("#message").startswith("One recording at a time: 2 files")
    page.route("**/transcriptions", lambda route: route.abort())
    drop(page, "a.flac", spoken[1])
    page.wait_for_selector("#again", state="visible")
    assert page.inner_text("#message span").startswith("The connection to the server failed: ")
    page.unroute("**/transcriptions")
    page.click("#again")
    assert read(page) == spoken[0] and page.locator("#message").is_hidden()


def test_a_busy_server_is_asked_again_after_the_time_that_it_says(server, visit, spoken):
    page, answers = visit(server), iter([429, 429])
    body = json.dumps({"error": {"message": "the queue is full", "type": "", "param": None, "code": None}})

    def busy(route: Any) -> None:
        status = next(answers, None)
        route.fulfill(status=status, body=body, headers={"Retry-After": "1"}) if status else route.continue_()

    page.route("**/transcriptions", busy)
    drop(page, "a.flac", spoken[1])
    wait_for_text(page, "#status", "busy. Next try in 1 s")
    assert read(page) == spoken[0] and next(answers, None) is None


def test_an_upload_shows_how_far_it_is_and_can_be_cancelled(server, visit, spoken):
    page = visit(server)
    session = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 100_000}
    session.send("Network.emulateNetworkConditions", slow)
    choose(page, "long.wav", spoken[1] + bytes(3_000_000))
    wait_for_text(page, "#status", "Sending, [1-9]0 %")
    page.click("#cancel")
    page.wait_for_selector("#again", state="visible")
    assert page.inner_text("#message span") == "Cancelled"
    session.send("Network.emulateNetworkConditions", slow | {"uploadThroughput": -1})
    drop(page, "a.flac", spoken[1])
    assert read(page) == spoken[0]


def test_text_of_the_server_never_becomes_markup_and_captions_are_those_of_the_command_line(server, visit, spoken):
    page = visit(server)
    texts = [
        "<img src=x onerror=alert(1)> & --> then\tmore",
        "word " * 60,
        "x" * 200 + " y",
        "ein Größenmaß " * 9,
        "短 " * 50,
    ]
    times = [(0.04, 3.2), (3.2, 33.1), (40.0, 41.5), (3599.9, 3612.345), (3700.001, 3700.002)]
    segments = [Segment(*time, text.strip(), 0.5) for time, text in zip(times, texts, strict=True)]
    as_json = [{"start": s.start, "end": s.end, "text": s.text} for s in segments]
    done = {"type": "transcript.text.done", "text": "", "segments": as_json}
    stream = {"body": f"data: {json.dumps(done)}\n\n", "content_type": "text/event-stream"}
    page.route("**/transcriptions", lambda route: route.fulfill(**stream))
    drop(page, "a.flac", spoken[1])
    assert "<img src=x onerror=alert(1)> & -->" in read(page)
    assert page.locator("#segments img").count() == 0
    for name in ("txt", "srt", "vtt"):
        with page.expect_download() as saved:
            page.click(f"[data-format={name}]")
        assert Path(saved.value.path()).read_text() == as_format(Transcript("", segments=tuple(segments)), name)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen_in_both_schemes(server, visit, spoken, scheme):
    page = visit(server, viewport={"width": 360, "height": 640}, color_scheme=scheme, reduced_motion="reduce")
    drop(page, f"{'long-name' * 12}.flac", spoken[1])
    read(page)
    page.wait_for_selector("#player", state="visible")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    light = page.evaluate("getComputedStyle(document.body).backgroundColor").startswith("rgb(25")
    assert light == (scheme == "light")


def test_a_token_is_asked_for_and_kept_in_memory_alone(servers, visit, spoken):
    page = visit(servers[1])
    page.wait_for_selector("#access", state="visible")
    assert page.locator("#message").is_hidden()
    drop(page, "a.flac", spoken[1])
    for token in ("wrong", TOKEN):
        page.wait_for_selector("#access", state="visible")
        page.fill("#token", token)
        page.keyboard.press("Enter")
        if token == "wrong":
            page.wait_for_selector("#message", state="visible")
            assert page.inner_text("#message").startswith("The server does not accept this token")
    assert read(page) == spoken[0] and page.locator("#access").is_hidden()
    kept = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
    assert TOKEN not in kept and TOKEN not in page.content()
