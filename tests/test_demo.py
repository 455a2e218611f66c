"""The demo, whole, as `make demo` runs it: the project's main promise, from speech to a falling word error rate."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """(what it printed, its summary, its folder)."""
    folder = tmp_path_factory.mktemp("demo")
    for name in ("model", "recipes"):
        (folder / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [sys.executable, "-m", "recipes.demo"], cwd=folder, capture_output=True, text=True, timeout=7200, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout, json.loads((folder / "runs/demo/summary.json").read_text()), folder


def test_training_the_adapter_brings_the_word_error_rate_of_new_voices_to_single_digits(demo):
    printed, summary, _ = demo
    assert summary["wer_untrained"] > 0.8
    assert summary["wer"] <= 0.08
    assert summary["wer_hard"] > summary["wer"] and len(summary["wer_by_voice"]) > 10
    assert f"{100 * summary['wer']:.1f} % after" in printed


def test_the_time_of_every_stage_is_told(demo):
    seconds = dict(demo[1]["seconds"])
    total = seconds.pop("total")
    stages = ["speech", "import", "build", "features", "train", "score", "untrained", "transcribe"]
    assert list(seconds) == stages
    assert total == pytest.approx(sum(seconds.values()), abs=0.2)


def test_three_held_out_recordings_are_heard(demo):
    printed, _, folder = demo
    said = dict(re.findall(r"^(\S+\.flac)\t(.+)$", printed, re.MULTILINE))
    rows = map(json.loads, (folder / "runs/demo/corpus/test.jsonl").read_text().splitlines())
    spoken = {row["audio"]: row["text"] for row in rows}
    heard = [(text, spoken[path.removeprefix("runs/demo/corpus/")]) for path, text in said.items()]
    assert len(heard) == 3 and sum(text == truth for text, truth in heard) >= 1, heard


def test_the_readmes_demo_commands_are_those_the_demo_ran(demo):
    announced = {line.removeprefix("$ ") for line in demo[0].splitlines() if line.startswith("$ ")}
    lines = re.sub(r"\\\n *", "", (ROOT / "README.md").read_text()).splitlines()  # continued lines as one
    shown = [line for line in lines if line.startswith("slam-asr ") and "runs/demo/" in line]
    assert len(shown) >= 3
    for command in shown:
        assert any(ran.startswith(command) for ran in announced), command


def test_the_trained_demo_opens_as_an_export_and_is_small(demo):
    folder = demo[2]
    environment = os.environ | {"PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"}
    command = ["slam-asr", "export", "runs/demo/run/train", "exported"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    assert sorted(path.name for path in (folder / "exported").iterdir()) == ["adapter.json", "adapter.safetensors"]
    assert (folder / "exported" / "adapter.safetensors").stat().st_size < 3e6
