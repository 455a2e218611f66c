"""`slam-asr run` from recordings and a CSV to a word error rate; killed on the way, it ends with the same figures."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from launch.command import main
from tests.newcomer import command, write_digits

SECONDS_TO_END = 300
EPOCHS = "optim.epochs=12"  # 36 steps; a checkpoint every 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With digits/: 160 to train on, 40 of one of their voices apart to evaluate on, 20 of a sixth voice."""
    folder = tmp_path_factory.mktemp("newcomer")
    write_digits(folder / "digits", of_each=4, of_each_test=2)
    return folder


@pytest.fixture(scope="module")
def straight(folder):
    """DIR of an uninterrupted run, and what it printed."""
    place = folder / "straight"
    process = start(folder, place)
    assert process.wait(SECONDS_TO_END) == 0, log(place)
    return place / "out", log(place)


def start(folder: Path, place: Path) -> subprocess.Popen:
    """The one command in a working folder of its own, into out/ of that."""
    place.mkdir(exist_ok=True)
    with open(place / "log.txt", "ab") as file:
        words = command(folder / "digits", Path("out"), EPOCHS)
        return subprocess.Popen(words, cwd=place, stdout=file, stderr=file)


def log(place: Path) -> str:
    return (place / "log.txt").read_text()


def wait_for(process: subprocess.Popen, came: Callable[[], bool], place: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_END
    while not came():
        assert process.poll() is None and time.monotonic() < deadline, log(place)
        time.sleep(0.02)


def descendants(pid: int) -> list[int]:
    """The processes that this one has started, those that they have, and so on."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    below, now = [], {pid}
    while now:
        now = {child for child, parent in parents.items() if parent in now}
        below += now
    return below


def kill_all(process: subprocess.Popen) -> None:
    """SIGKILL to all processes at once: none can save, or notice that another has gone."""
    process.send_signal(signal.SIGSTOP)
    victims = descendants(process.pid)
    for pid in [*victims, process.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + SECONDS_TO_END
    while any(Path(f"/proc/{pid}").exists() for pid in victims) and time.monotonic() < deadline:
        time.sleep(0.02)


def figures(scored: Path) -> dict:
    """What score.json says, but for how long the decoding took."""
    return json.loads((scored / "score.json").read_text()) | {"decoding": None}


def test_one_command_ends_with_the_word_error_rate_of_an_unseen_voice(straight):
    out, printed = straight
    summary = json.loads((out / "summary.json").read_text())
    score = summary["scores"]["test"]
    assert score["all"]["wer"] <= 0.1 and score["all"]["words"] == 20 and list(score["by"]["speaker"]) == ["en-us_m4"]
    assert list(summary["seconds"]) == ["import", "build", "features", "recipe", "train", "score", "total"]
    assert "split by speaker" in printed and f"{100 * score['all']['wer']:.1f} %" in printed
    commands = [line.removeprefix("$ ") for line in printed.splitlines() if line.startswith("$ ")]
    verbs = [" ".join(line.split()[:3]) for line in commands]
    assert verbs == [
        *("slam-asr prep import", "slam-asr prep import", "slam-asr prep build", "slam-asr prep build"),
        *("slam-asr prep features", "slam-asr prep features", "slam-asr recipe new", "python -m train"),
        "slam-asr score out/train",
    ]


def test_killed_in_features_and_in_training_it_ends_with_the_same_figures(folder, straight):
    place, out = folder / "killed", folder / "killed" / "out"
    for name in ("manifests", "shards"):  # as its own import and build would make them
        shutil.copytree(straight[0] / name, out / name)
    shutil.copy(straight[0] / "run.json", out)
    first = start(folder, place)
    wait_for(first, lambda: any((out / "features" / "train").glob("*")), place)
    kill_all(first)
    second = start(folder, place)
    wait_for(second, lambda: (out / "train" / "checkpoints" / "step-00000010").exists(), place)
    kill_all(second)
    third = start(folder, place)
    wait_for(third, lambda: (out / "train" / "checkpoints" / "step-00000020").exists(), place)
    third.send_signal(signal.SIGTERM)
    assert third.wait(SECONDS_TO_END) in (75, 0), log(place)  # 0: it had taken its last step already
    fourth = start(folder, place)
    assert fourth.wait(SECONDS_TO_END) == 0, log(place)
    assert "resuming from out/train/checkpoints/step-000000" in log(place)
    for name in ("recipe.yaml", "scores/test/results.jsonl"):
        assert (out / name).read_bytes() == (straight[0] / name).read_bytes(), name
    assert figures(out / "scores" / "test") == figures(straight[0] / "scores" / "test")
    assert adapters(out) == adapters(straight[0])


def test_given_again_it_only_asks_the_training_and_replaces_a_score_of_another_checkpoint(
    folder, straight, monkeypatch, capsys
):
    before, path = adapters(straight[0]), straight[0] / "scores" / "test" / "score.json"
    right = figures(path.parent)
    path.write_bytes(path.read_bytes().replace(b'"weights_sha256": "', b'"weights_sha256": "0'))
    process = start(folder, folder / "straight")
    assert process.wait(SECONDS_TO_END) == 0 and figures(path.parent) == right
    again = log(folder / "straight").removeprefix(straight[1])
    run = [line for line in again.splitlines() if line.startswith("$ ") and "  # " not in line]
    score = "$ slam-asr score out/train out/shards/test --out out/scores/test --by speaker"
    assert run == [f"$ python -m train out/recipe.yaml {EPOCHS}", score] and adapters(straight[0]) == before
    monkeypatch.chdir(folder / "straight")
    assert main([*command(folder / "digits", Path("out"), EPOCHS)[1:], "--dry-run"]) == 0
    assert f"{score}  # out/scores/test is of this checkpoint" in capsys.readouterr().out


def adapters(out: Path) -> dict[str, bytes]:
    """The checkpoint that was scored, and the last one."""
    checkpoints = out / "train" / "checkpoints"
    last = max(checkpoints.glob("step-*"))
    paths = {"best": checkpoints / "best", last.name: last}
    return {name: (path / "adapter.safetensors").read_bytes() for name, path in paths.items()}
