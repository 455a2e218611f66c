"""`slam-asr run` from recordings and a CSV to a word error rate, killed and stopped on the way."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from launch.command import main
from tests import ranks
from tests.newcomer import command, write_digits

SECONDS_TO_END = 300
EPOCHS = "optim.epochs=12"  # 36 steps; a checkpoint every 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With digits/: 160 to train on, 40 of one of their voices apart to evaluate on, 20 of a sixth voice."""
    folder = tmp_path_factory.mktemp("newcomer")
    write_digits(folder / "digits", of_each=4, of_each_test=2)
    return folder


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


@pytest.fixture(scope="module")
def ended(folder):
    """The working folder of a run that was killed in features and stopped in training, and what its last start
    printed."""
    place = folder / "place"
    out = place / "out"
    first = start(folder, place)
    wait_for(first, lambda: any((out / "features" / "train").glob("*")), place)
    kill_all(first)
    second = start(folder, place)
    wait_for(second, lambda: (out / "train" / "checkpoints" / "step-00000010").exists(), place)
    second.send_signal(signal.SIGTERM)
    assert second.wait(SECONDS_TO_END) in (75, 0), log(place)  # 0: its last step was done before the signal
    (out / "scores" / "test").mkdir(parents=True, exist_ok=True)
    (out / "scores" / "test" / "score.json").write_text('{"weights_sha256": "0"}')  # of another checkpoint
    before = len(log(place))
    third = start(folder, place)
    assert third.wait(SECONDS_TO_END) == 0, log(place)
    return place, log(place)[before:]


@pytest.fixture(scope="module")
def straight(ended):
    """The same features, training and scoring without `slam-asr run`, and without interruptions."""
    place, folder = ended[0], ended[0].parent / "straight"
    out = place / "out"
    features = [line.split()[2:] for line in log(place).splitlines() if line.startswith("$ slam-asr prep features ")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for words in {words[2]: words for words in features if "#" not in words}.values():
            made = words[3].replace("out", str(folder), 1)
            assert main([*words[:3], made, *words[4:]]) == 0
        data = [f"data.{name}={folder / 'features' / name}" for name in ("train", "dev")]
        given = [str(out / "recipe.yaml"), *data, f"run.dir={folder / 'train'}", EPOCHS]
        ranks.train(given, 1, folder / "log")
        test, scored = str(out / "shards" / "test"), str(folder / "scores" / "test")
        assert main(["score", str(folder / "train"), test, "--out", scored, "--by", "speaker"]) == 0
    return folder


def test_one_command_ends_with_the_word_error_rate_of_an_unseen_voice(ended):
    out, printed = ended[0] / "out", ended[1]
    summary = json.loads((out / "summary.json").read_text())
    score = summary["scores"]["test"]
    assert score["all"]["wer"] <= 0.1 and score["all"]["words"] == 20 and list(score["by"]["speaker"]) == ["en-us_m4"]
    assert list(summary["seconds"]) == ["import", "build", "features", "recipe", "train", "score", "total"]
    assert "split by speaker" in log(ended[0]) and f"{100 * score['all']['wer']:.1f} %" in printed
    commands = [line.removeprefix("$ ") for line in printed.splitlines() if line.startswith("$ ")]
    verbs = [" ".join(line.split()[:3]) for line in commands]
    assert verbs == [
        *("slam-asr prep import", "slam-asr prep import", "slam-asr prep build", "slam-asr prep build"),
        *("slam-asr prep features", "slam-asr prep features", "slam-asr recipe new", "python -m train"),
        "slam-asr score out/train",
    ]


def test_a_run_killed_in_features_and_stopped_in_training_has_the_figures_of_an_uninterrupted_one(ended, straight):
    out = ended[0] / "out"
    assert "resuming from out/train/checkpoints/step-000000" in ended[1]
    assert adapters(out) == adapters(straight)
    results = [folder / "scores" / "test" / "results.jsonl" for folder in (out, straight)]
    assert results[0].read_bytes() == results[1].read_bytes()
    ours, theirs = (json.loads((file.parent / "score.json").read_text()) for file in results)
    for name in ("all", "by", "step", "weights_sha256", "shards_digest"):
        assert ours[name] == theirs[name]


def test_given_again_it_only_asks_the_training(folder, ended, monkeypatch, capfd):
    """The score of another checkpoint, present before the last start, was replaced by it."""
    monkeypatch.chdir(ended[0])
    before = adapters(Path("out"))
    assert main(command(folder / "digits", Path("out"), EPOCHS)[1:]) == 0
    again = [line.removeprefix("$ ") for line in capfd.readouterr().out.splitlines() if line.startswith("$ ")]
    assert [line for line in again if "  # " not in line] == [f"python -m train out/recipe.yaml {EPOCHS}"]
    score = "slam-asr score out/train out/shards/test --out out/scores/test --by speaker --overwrite"
    assert again[-1] == f"{score}  # out/scores/test is of this checkpoint"
    assert adapters(Path("out")) == before


def adapters(out: Path) -> dict[str, bytes]:
    """The checkpoint that was scored, and the last one."""
    checkpoints = out / "train" / "checkpoints"
    last = max(checkpoints.glob("step-*"))
    paths = {"best": checkpoints / "best", last.name: last}
    return {name: (path / "adapter.safetensors").read_bytes() for name, path in paths.items()}
