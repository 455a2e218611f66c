"""`slam-asr launch`: what it prints and writes, what it refuses, what it leaves behind. Other hosts: tests/cluster/."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.command import main
from launch.deepspeed import local, marked, orphans, outcome, recipe
from launch.deepspeed.outcome import Markers
from model.errors import UserError
from tests import ranks
from tests.train.conftest import make_ground
from train.liveness.exit_status import LAUNCHER_GONE
from train.recipe.config import load_config

RECIPE = """
model: {encoder: e, llm: l}
data: {train: shards}
optim: {max_steps: 8, warmup_steps: 3}
"""
LONG = "optim.max_steps=60", "save.every_steps=1000", "watch.every_steps=null"


@pytest.fixture
def plain(tmp_path):
    """A recipe whose models are never opened."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE + f"run: {{dir: {tmp_path}/run}}\n")
    return path


def printed(capsys) -> tuple[dict[str, str], list[str]]:
    """(the environment it sets, the command) as a shell would read the line that was printed."""
    words = shlex.split(capsys.readouterr().out)
    assert words.pop(0) == "env"
    start = next(number for number, word in enumerate(words) if word.startswith("/"))
    return dict(word.split("=", 1) for word in words[:start] if "=" in word), words[start:]


def test_a_dry_run_prints_a_command_that_can_be_pasted_and_starts_nothing(plain, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(local, "gpus", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("DS_ACCELERATOR")
    given = ["launch", "local", str(plain), "optim.lr=2e-4", "--dry-run", "data.train=[a b,$;*(c]", "--allow-changes"]
    assert main(given) == 0
    variables, (program, *words) = printed(capsys)
    assert Path(program).name == "deepspeed" and re.fullmatch("[0-9a-f]{16}", variables["SLAM_ASR_LAUNCH"])
    written, port = tmp_path / "run" / "launch" / "recipe.yaml", int(words[5])
    assert words[:4] == ["--hostfile", "/dev/null", "--num_accelerators", "3"] and words[4] == "--master_port"
    assert 20000 <= port < 32768 and port != recipe.DEFAULT_PORT
    assert words[6:] == f"--no_local_rank --module train {written} --deepspeed zero0 --allow-changes".split()
    assert load_config(written) == load_config(plain, ["optim.lr=2e-4", "data.train=[a b,$;*(c]"])
    assert not list((tmp_path / "run").glob("config.yaml"))


@pytest.mark.parametrize(
    "visible, ranks_given, there, said",
    [
        ("", None, 4, "--num_accelerators 1"),
        (None, None, 4, "--num_accelerators 4"),
        (None, 2, 4, "--num_accelerators 2"),
        (None, 3, 0, "--num_accelerators 3"),
        ("5,2", None, 8, "--include localhost:5,2"),
        ("5,2", 1, 8, "--include localhost:5"),
        ("5,2", 3, 8, "--ranks is 3, CUDA_VISIBLE_DEVICES names 2 GPUs"),
        ("GPU-1f", None, 8, "deepspeed takes numbers only"),
        (None, 5, 4, "--ranks is 5, this host has 4 GPUs"),
        (None, 0, 4, "--ranks is 0, it must be at least 1"),
    ],
)
def test_ranks_are_those_gpus_that_this_process_may_see(visible, ranks_given, there, said, monkeypatch):
    monkeypatch.setattr(local, "gpus", lambda: there)
    monkeypatch.delenv("DS_ACCELERATOR")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if said.startswith("--num") or said.startswith("--include"):
        assert local._devices(ranks_given) == said.split()
    else:
        with pytest.raises(UserError, match=re.escape(said)):
            local._devices(ranks_given)


@pytest.fixture
def at_once(monkeypatch):
    """No wait for markers to show up on a network file system."""
    monkeypatch.setattr(outcome, "SECONDS_TO_SEE", 0.0)


def test_the_marker_tells_and_never_the_exit_code(tmp_path, at_once):
    folder, before = tmp_path / "run", Markers(None, None, None)
    folder.mkdir()
    assert outcome.outcome(folder, before, 0, False)[0] == 1, "deepspeed exits with 0 when launch.py was killed"
    assert outcome.outcome(folder, before, 7, False)[0] == 7 and outcome.outcome(folder, before, -9, False)[0] == 1
    (folder / "FINISHED").write_text("8\n")
    assert outcome.outcome(folder, before, 9, True)[0] == 0
    assert outcome.outcome(folder, Markers.of(folder), 0, False)[0] == 1, "of an earlier run"
    (folder / "FINISHED").unlink()
    for reason, code in (("SIGTERM", 75), (LAUNCHER_GONE, 1)):
        (folder / "STOPPED").write_text(f"5 {reason}\n")
        for of_launcher in (0, 75):  # of deepspeed, whose ranks left with 75 when they had saved
            given, line = outcome.outcome(folder, before, of_launcher, False)
            assert given == code and "step 5" in line and "the same command goes on" in line


def test_a_host_that_sees_no_folder_of_the_first_one_goes_by_its_own_end(tmp_path, at_once):
    nothing = Markers(None, None, None)
    assert outcome.outcome(tmp_path / "run", nothing, 0, left=False, node_rank=1)[0] == 0
    assert outcome.outcome(tmp_path / "run", nothing, 0, left=True, node_rank=1)[0] == 1
    assert outcome.outcome(tmp_path / "run", nothing, 75, left=False, node_rank=1)[0] == 75


STUBBORN = (
    "import signal,time; signal.signal(signal.SIGUSR1, signal.SIG_DFL); {}; print(1, flush=True); time.sleep(900)"
)
SAVES = "signal.signal(signal.SIGTERM, lambda *a: exit(0)); signal.signal(signal.SIGUSR1, lambda *a: exit(3))"
IGNORES = "signal.signal(signal.SIGTERM, lambda *a: 0); signal.signal(signal.SIGUSR1, lambda *a: 0)"


@pytest.fixture
def start():
    """Starts a process that sleeps, with a mark and as a rank if it is given one; all are gone in the end."""
    started = []

    def process(mark: str, rank: str = "", does: str = "0") -> "subprocess.Popen[str]":
        variables = {"SLAM_ASR_LAUNCH": mark} | ({"RANK": rank} if rank else {})
        command = [sys.executable, "-c", STUBBORN.format(does)]
        started.append(subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.PIPE, text=True))
        started[-1].stdout.readline()
        return started[-1]

    yield process
    for process in started:
        process.kill()
        process.communicate()


def test_what_a_launch_leaves_is_asked_then_killed_and_nothing_else_is_touched(start):
    saves, ignores, other = start("ours", "0", SAVES), start("ours", "1", IGNORES), start("theirs", "0")
    launcher, mute = start("ours"), start("ours", "2")
    told: set[int] = set()
    marked.ask("ours", signal.SIGUSR1, told)
    assert saves.wait(600) == 3 and told == {saves.pid, ignores.pid}, "who has no handler yet would die of it"
    lines = marked.end("ours", 0.5)
    assert [p.wait(600) for p in (ignores, launcher, mute)] == [-9, -9, -9] and other.poll() is None
    assert f"pid {ignores.pid} (rank 1) was left: killed" in lines and len(lines) == 3


def test_a_launch_that_is_killed_with_9_has_its_ranks_ended(start):
    guard, rank, other = orphans.start_guard("ours", [], 600, None), start("ours", "0", SAVES), start("theirs", "0")
    assert guard.stdin
    guard.stdin.close()
    assert guard.wait(900) == 0 and rank.wait(600) == 0 and other.poll() is None


def command(ground: Path, folder: Path) -> list[str]:
    given = [f"run.dir={folder}", *LONG]
    return [sys.executable, "-m", "launch", "launch", "local", str(ground / "recipe.yaml"), "--ranks", "2", *given]


def test_whatever_happens_to_a_local_launch_nothing_is_left_and_the_same_command_finishes(tmp_path):
    ground, folder = make_ground(tmp_path), tmp_path / "interrupted"
    straight = ranks.start([str(ground / "recipe.yaml"), f"run.dir={tmp_path}/straight", *LONG], 2, tmp_path / "log")
    for victim, code, said in (
        ("launch.py", 1, "launch: the launcher is gone: it was killed"),
        ("slam-asr", 75, "launch: stopped as asked (SIGTERM) after step "),
        ("nobody", 0, f"launch: finished: {folder}"),
    ):
        log, before = tmp_path / victim, ranks.last_step(folder)
        with open(log, "wb") as file:
            running = subprocess.Popen(command(ground, folder), cwd=ranks.ROOT, stdout=file, stderr=file)
        try:
            if victim != "nobody":
                ranks.wait_for_step(folder, before + 1)
                if victim == "slam-asr":
                    running.terminate()
                else:
                    os.kill(launcher_of(log), signal.SIGKILL)
            assert running.wait(ranks.HANGS_AFTER) == code, log.read_text()
        finally:
            running.kill()
            ranks.wait_until_none_is_left(log)
        assert said in log.read_text() and not marked.marked(mark_in(log)), log.read_text()
    assert straight.wait() == [0, 0]
    ours, theirs = (run / "checkpoints/step-00000060/adapter.safetensors" for run in (folder, tmp_path / "straight"))
    assert ours.read_bytes() == theirs.read_bytes()
    assert (folder / "FINISHED").exists() and not (folder / "STOPPED").exists()


def mark_in(log: Path) -> str:
    return log.read_text().partition("SLAM_ASR_LAUNCH=")[2].partition(" ")[0]


def launcher_of(log: Path) -> int:
    """The process of deepspeed's launch.py."""
    deadline = time.monotonic() + ranks.HANGS_AFTER
    while time.monotonic() < deadline:
        for process in marked.marked(mark_in(log)):
            if b"deepspeed.launcher.launch" in Path(f"/proc/{process.pid}/cmdline").read_bytes():
                return process.pid
    raise AssertionError(log.read_text())
