"""Whether every way to a transcript gives the same text: Python, the command, an exported folder that transformers
opens offline in an environment without this project, `slam-asr serve` asked by 8 threads with the openai client, and a
vLLM server, here the stand-in of tests/decode/vllm (an adapter with LoRA is exported with --format merged for it).

    python -m tests.same_transcripts ADAPTER RECORDING... [--clips 30]

All run on the CPU in float32. A RECORDING may be a folder. Prints a line a way, and exits with 1 if a text differs from
that of Python. A further way is a function in WAYS."""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from decode.export.hugging_face.export import export_hf
from decode.export.merge import export_merged
from decode.recordings.folders import recordings_in
from model.weights import find_adapter, open_llm, read_card

PROJECT = ("data_prep", "decode", "launch", "model", "slam_asr", "train")
IN_TRANSFORMERS = f"""
import importlib.util, json, sys
assert not [name for name in {PROJECT} if importlib.util.find_spec(name)], "this project is installed here"
from transformers import pipeline
recognise = pipeline("automatic-speech-recognition", model=sys.argv[1], trust_remote_code=True, device="cpu")
print(json.dumps([result["text"] for result in recognise(sys.argv[2:])]))
"""


def bare_python(folder: Path) -> Path:
    """The Python of a new virtual environment in `folder` with this one's packages, but without this project."""
    venv.create(folder, with_pip=False)
    [packages] = folder.glob("lib/python*/site-packages")
    places = [place for place in map(Path, sys.path) if place.name == "site-packages"]
    (packages / "packages.pth").write_text("".join(f"{place}\n" for place in places))  # their own .pth are not read
    return folder / "bin" / "python"


def offline(folder: Path) -> dict[str, str]:
    """The environment of a process outside this project that reaches no hub and has caches of its own in `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_", "SLAM_ASR"))}
    return kept | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder)}


def by_python(adapter: str, recordings: Sequence[str], work: Path) -> list[str]:
    from slam_asr import load

    return [transcript.text for transcript in load(adapter, device="cpu").transcribe(list(recordings))]


def by_command(adapter: str, recordings: Sequence[str], work: Path) -> list[str]:
    command = [sys.executable, "-m", "launch", "transcribe", adapter, *recordings, "--format", "jsonl"]
    done = subprocess.run([*command, "--device", "cpu"], check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line)["text"] for line in done.stdout.splitlines()]


def by_transformers(adapter: str, recordings: Sequence[str], work: Path) -> list[str]:
    export_hf(adapter, work / "exported", include_models=True)
    python = bare_python(work / "venv")
    command = [str(python), "-c", IN_TRANSFORMERS, str(work / "exported"), *map(os.path.abspath, recordings)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=work, env=offline(work / "hf"))
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def slam_asr_serve(adapter: str, log: Path) -> Iterator[str]:
    """The URL of a `slam-asr serve` on a free port, which writes to `log`; asked to end by SIGTERM, and waited for."""
    command = [sys.executable, "-m", "launch", "serve", adapter, "--port", "0", "--device", "cpu"]
    with log.open("w") as file, subprocess.Popen(command, stderr=file) as server:
        try:
            while not (found := re.search(r"http://\S+", log.read_text())):
                assert server.poll() is None, log.read_text()
                time.sleep(0.1)
            yield found[0]
        finally:
            server.terminate()
    assert server.returncode == 0, log.read_text()


def by_server(adapter: str, recordings: Sequence[str], work: Path) -> list[str]:
    import openai

    with slam_asr_serve(adapter, work / "log") as url, ThreadPoolExecutor(8) as pool:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=3600)
        [model] = client.models.list()
        ask = client.audio.transcriptions.create
        return [answer.text for answer in pool.map(lambda path: ask(file=Path(path), model=model.id), recordings)]


def by_vllm(adapter: str, recordings: Sequence[str], work: Path) -> list[str]:
    from slam_asr import load
    from tests.decode.vllm.endpoint import Endpoint, serving

    folder = find_adapter(adapter)
    if read_card(folder).lora:
        export_merged(folder, folder := work / "merged", llm_dtype="float32")
    llm = open_llm(read_card(folder), folder, None, "float32", "cpu", trust_remote_code=False)
    with serving(Endpoint(llm, "the LLM")) as endpoint:
        recogniser = load(folder, device="cpu", backend=f"vllm:{endpoint.url}#the LLM")
        # One after another: the stand-in decodes a window at a time, and 30 may wait longer than the client does.
        return [recogniser.transcribe(recording).text for recording in recordings]


WAYS: dict[str, Callable[[str, Sequence[str], Path], list[str]]] = {
    "python": by_python,
    "command": by_command,
    "transformers": by_transformers,
    "server": by_server,
    "vllm": by_vllm,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter")
    parser.add_argument("recordings", nargs="+")
    parser.add_argument("--clips", type=int, default=30, help="take the first so many (default: 30)")
    args = parser.parse_args()
    found = [
        file for place in args.recordings for file in (recordings_in(place)[0] if Path(place).is_dir() else [place])
    ]
    recordings, expected, differing = found[: args.clips], None, 0
    for name, way in WAYS.items():
        with tempfile.TemporaryDirectory() as work:
            texts = way(args.adapter, recordings, Path(work))
        expected = expected or texts
        other = [place for place, *pair in zip(recordings, texts, expected, strict=True) if pair[0] != pair[1]]
        differing += len(other)
        print(f"{name}: {len(texts)} recordings, {sum(map(len, texts)):,} characters, {len(other)} differ", *other[:3])
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
