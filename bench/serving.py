"""The server under many clients: recordings decoded together against one by one, and what SIGTERM loses.

`python -m bench.serving`. Two servers with the stand-in models run side by side, one as it is and one whose batches
hold a single window (`--batch-tokens 1`). In turns, each gets the same recordings of the demo's dev speech from 100
clients at once, every fourth of them OpenAI's Python client; they are in this process, made before time is taken.
Printed are the ratio of the times until all are answered, second over first, the latencies, and how many transcripts
were lost or differ from those of `slam_asr.load`. At last the first server gets SIGTERM while 100 requests are under
way.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any, NamedTuple

import httpx
import numpy as np

from bench.corpora import PLACE, ROOT
from bench.timing import median, ratios, spread
from decode.recogniser import load

ADAPTER = ROOT / "model" / "stand_in" / "adapter"
CLIENTS, REPEATS, OPENAI_SHARE = 100, 3, 4  # every fourth client is OpenAI's
ADDRESS = re.compile(r"http://\S+")


class Answer(NamedTuple):
    text: str
    seconds: float  # from the request to the answer


def main(scale: float = 1.0) -> None:
    recordings = _recordings(max(4, round(CLIENTS * scale)))
    wanted = [transcript.text for transcript in load(ADAPTER).transcribe_each(recordings)]
    with ExitStack() as stack:
        together = stack.enter_context(_server())
        alone = stack.enter_context(_server("--batch-tokens", "1"))
        walls: dict[str, list[float]] = {"together": [], "one by one": []}
        latencies: dict[str, list[float]] = {"together": [], "one by one": []}
        wrong = 0
        for turn in range(REPEATS + 1):  # the first turn warms both up
            for name, (_, url) in (("together", together), ("one by one", alone)):
                answers, wall = asyncio.run(_ask(url, recordings))
                if turn:
                    walls[name].append(wall)
                    latencies[name] += [answer.seconds for answer in answers]
                wrong += sum(answer.text != text for answer, text in zip(answers, wanted, strict=True))
        times = ratios(walls["one by one"], walls["together"])
        print(f"{len(recordings)} clients, together and one by one: {median(times):.3g} x ({spread(times)})")
        for name, seconds in latencies.items():
            p50, p95 = np.percentile(seconds, [50, 95])
            print(f"{name}: {median(walls[name]):.2f} s for all, latency p50 {p50:.2f} s, p95 {p95:.2f} s")
        print(f"transcripts that are lost or differ: {wrong} of {2 * (REPEATS + 1) * len(recordings)}")
        _stop(*together, recordings, wanted)


def _stop(process: subprocess.Popen[str], url: str, recordings: list[bytes], wanted: list[str]) -> None:
    """SIGTERM as soon as every request has been accepted."""

    async def ask_and_stop() -> tuple[list[Answer], float]:
        asked = asyncio.ensure_future(_ask(url, recordings))
        async with httpx.AsyncClient() as client:
            while not asked.done():
                metrics = (await client.get(f"{url}/metrics")).text
                [active] = re.findall(r"^slam_asr_server_active_requests (\S+)$", metrics, re.M)
                if float(active) >= 0.9 * len(recordings):
                    break
        process.send_signal(signal.SIGTERM)
        return await asked

    answers, _ = asyncio.run(ask_and_stop())
    lost = sum(answer.text != text for answer, text in zip(answers, wanted, strict=True))
    print(f"SIGTERM under load: exit code {process.wait()}, lost {lost} of {len(answers)}", flush=True)


async def _ask(url: str, recordings: list[bytes]) -> tuple[list[Answer], float]:
    """All recordings at once, each by a client of its own; and the seconds until all were answered."""
    from openai import AsyncOpenAI

    async with AsyncExitStack() as stack:
        clients = []
        for number in range(len(recordings)):  # making one takes tens of milliseconds
            if number % OPENAI_SHARE == 0:
                options = {"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0, "timeout": 600.0}
                clients.append(await stack.enter_async_context(AsyncOpenAI(**options)))
            else:
                clients.append(await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=600)))
        began = time.monotonic()
        answers = await asyncio.gather(*map(_one, clients, recordings))
        return list(answers), time.monotonic() - began


async def _one(client: Any, data: bytes) -> Answer:
    began = time.monotonic()
    if isinstance(client, httpx.AsyncClient):
        answer = await client.post("/v1/audio/transcriptions", files={"file": ("a.flac", data)})
        text = answer.json().get("text", str(answer.status_code))
    else:
        answer = await client.audio.transcriptions.create(model="adapter", file=("a.flac", data))
        text = answer.text
    return Answer(text, time.monotonic() - began)


def _recordings(count: int) -> list[bytes]:
    """Files of the demo's dev speech."""
    place = PLACE / f"serving-{count}"
    command = [
        sys.executable,
        "-m",
        "launch",
        "prep",
        "synth",
        str(place),
        "--split",
        "dev",
        "--utterances",
        str(count),
    ]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    rows = [json.loads(line) for line in (place / "dev.jsonl").read_text().splitlines()]
    return [(place / row["audio"]).read_bytes() for row in rows]


@contextmanager
def _server(*flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server's process and address."""
    command = [sys.executable, "-m", "launch", "serve", str(ADAPTER), "--port", "0", "--dtype", "float32", *flags]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        found = next(match for line in process.stderr if (match := ADDRESS.search(line)))
        os.set_blocking(process.stderr.fileno(), False)
        yield process, found[0]
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
