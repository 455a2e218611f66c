"""The demo: the project's main promise, from speech to a falling word error rate.

`make demo-check` (SLAM_ASR_WHOLE_DEMO=1) runs all of it, as `make demo` does, for some five minutes; `make test` leaves
it out, as .ci/run ends with it.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launch.command import main

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(
    os.environ.get("SLAM_ASR_WHOLE_DEMO") != "1", reason="five minutes: make demo-check, which .ci/run does"
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """(what it printed, its summary, its folder)."""
    folder = tmp_path_factory.mktemp("demo")
    for name in ("model", "recipes"):
        (folder / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "recipes.demo"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=7200, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout, json.loads((folder / "runs/demo/summary.json").read_text()), folder


def test_training_the_adapter_brings_the_word_error_rate_of_new_voices_to_single_digits(demo):
    printed, summary, _ = demo
    assert summary["wer_untrained"] > 0.8
    assert summary["wer"] <= 0.08
    assert summary["wer_hard"] > summary["wer"] and len(summary["wer_by_voice"]) > 10
    assert f"{100 * summary['wer']:.1f} % after" in printed


def test_the_figures_are_those_of_the_scores_and_are_printed(demo):
    printed, summary, folder = demo
    for name, path in (("wer_untrained", "untrained"), ("wer", "run/scores/test"), ("wer_hard", "run/scores/hard")):
        score = json.loads((folder / "runs/demo" / path / "score.json").read_text())
        assert summary[name] == score["all"]["wer"] > 0 and f"{100 * summary[name]:.1f} %" in printed
    for voices in ("wer_by_voice", "wer_hard_by_voice"):
        assert len(summary[voices]) > 5


def test_two_ranks_train_to_the_last_step_with_a_falling_loss_and_keep_the_best(demo):
    run = demo[2] / "runs/demo/run/train"
    reports = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in reports if row["kind"] == "dev"]
    assert len(losses) == 4 and losses[-1] < losses[0]
    assert (run / "FINISHED").read_text() == "500\n"
    state = json.loads((run / "checkpoints" / "step-00000500" / "state.json").read_text())
    assert state["world_size"] == 2
    assert (run / "checkpoints" / "best" / "adapter.safetensors").exists()


def transcribed(demo) -> dict[str, str]:
    return dict(re.findall(r"^(\S+\.flac)\t(.*)$", demo[0], re.MULTILINE))


def test_three_held_out_recordings_are_transcribed(demo):
    said = transcribed(demo)
    assert len(said) == 3 and all((demo[2] / path).exists() for path in said)


def test_of_three_held_out_recordings_one_at_least_is_heard_without_a_mistake(demo):
    folder = demo[2]
    rows = map(json.loads, (folder / "runs/demo/corpus/test.jsonl").read_text().splitlines())
    spoken = {row["audio"]: row["text"] for row in rows}
    heard = [(text, spoken[path.removeprefix("runs/demo/corpus/")]) for path, text in transcribed(demo).items()]
    assert sum(text == truth for text, truth in heard) >= 1, heard


def test_the_demo_commands_of_the_quick_start_are_those_the_demo_ran(demo):
    announced = {line.removeprefix("$ ") for line in demo[0].splitlines() if line.startswith("$ ")}
    lines = re.sub(r"\\\n *", "", (ROOT / "docs" / "quick-start.md").read_text()).splitlines()  # continued lines as one
    shown = [line for line in lines if line.startswith("slam-asr ") and "runs/demo/" in line]
    assert len(shown) >= 3
    for command in shown:
        assert any(ran.startswith(command) for ran in announced), command


def test_the_trained_demo_opens_as_an_export_and_is_small(demo, monkeypatch):
    folder = demo[2]
    monkeypatch.chdir(folder)
    assert main(["export", "runs/demo/run/train", "exported"]) == 0
    assert sorted(path.name for path in (folder / "exported").iterdir()) == [
        *("README.md", "adapter.json", "adapter.safetensors")
    ]
    assert (folder / "exported" / "adapter.safetensors").stat().st_size < 3e6
