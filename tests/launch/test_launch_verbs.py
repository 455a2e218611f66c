"""`slam-asr launch`: what it prints and writes, what it refuses, how it ends. Other hosts: tests/cluster/."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.command import main
from launch.deepspeed import local, running
from launch.deepspeed.running import markers, outcome
from model.errors import UserError
from tests import ranks
from tests.train.conftest import make_ground
from train.liveness.exit_status import LAUNCHER_GONE
from train.liveness.stop import SECONDS_TO_INSIST
from train.recipe.config import load_config

LONG = "optim.max_steps=60", "save.every_steps=1000", "watch.every_steps=null"


def test_a_dry_run_prints_the_command_and_starts_nothing(plain, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(local, "gpus", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("DS_ACCELERATOR")
    given = ["launch", "local", str(plain), "optim.lr=2e-4", "--dry-run", "data.train=[a b,$;*(c]", "--allow-changes"]
    assert main(given) == 0
    program, *words = capsys.readouterr().out.split()
    written = tmp_path / "run" / "launch" / "recipe.yaml"
    assert Path(program).name == "deepspeed" and 20000 <= int(words.pop(5)) < 29500
    assert (
        words
        == (
            "--hostfile /dev/null --num_accelerators 3 --master_port "
            f"--no_local_rank --module train {written} --deepspeed zero0 --allow-changes"
        ).split()
    )
    assert load_config(written) == load_config(plain, ["optim.lr=2e-4", "data.train=[a b,$;*(c]"])
    assert os.listdir(tmp_path / "run") == ["launch"]


@pytest.mark.parametrize(
    "visible, ranks_given, there, options",
    [
        ("", None, 4, "--num_accelerators 1"),
        (None, None, 4, "--num_accelerators 4"),
        (None, 2, 4, "--num_accelerators 2"),
        (None, 3, 0, "--num_accelerators 3"),
        ("5,2", None, 8, "--include localhost:5,2"),
        ("5,2", 1, 8, "--include localhost:5"),
    ],
)
def test_ranks_are_those_gpus_that_this_process_may_see(visible, ranks_given, there, options, monkeypatch):
    see(monkeypatch, visible, there)
    assert local._devices(local.ranks_here(ranks_given)) == options.split()


@pytest.mark.parametrize(
    "visible, ranks_given, there, values",
    [
        ("5,2", 3, 8, ("--ranks is 3", "2 GPUs")),
        (None, 5, 4, ("--ranks is 5", "4 GPUs")),
        (None, 0, 4, ("--ranks is 0", "at least 1")),
        ("GPU-1f", None, 8, ("CUDA_VISIBLE_DEVICES", "'GPU-1f'")),
    ],
)
def test_ranks_that_would_share_a_gpu_or_have_none_are_refused(visible, ranks_given, there, values, monkeypatch):
    see(monkeypatch, visible, there)
    with pytest.raises(UserError) as refusal:
        local._devices(local.ranks_here(ranks_given))
    assert all(value in str(refusal.value) for value in values)


def see(monkeypatch, visible: str | None, there: int) -> None:
    """Pretends a host of so many GPUs, and a CUDA_VISIBLE_DEVICES."""
    monkeypatch.setattr(local, "gpus", lambda: there)
    monkeypatch.delenv("DS_ACCELERATOR")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


def test_the_markers_decide_and_never_the_exit_code(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "SECONDS_TO_APPEAR", 0.0)
    folder = tmp_path / "run"
    folder.mkdir()
    before = markers(folder)
    assert outcome(folder, before, 0)[0] == 1, "deepspeed exits with 0 when launch.py was killed"
    assert outcome(folder, before, 7)[0] == 7 and outcome(folder, before, -9)[0] == 1
    assert outcome(folder, before, 0, node_rank=1)[0] == 0, "the folder of rank 0 is another one"
    assert outcome(folder, before, 75, node_rank=1)[0] == 75
    (folder / "LOCK").touch()
    assert outcome(folder, before, 0, node_rank=1)[0] == 1
    (folder / "FINISHED").write_text("8\n")
    assert outcome(folder, before, 9)[0] == 0
    assert outcome(folder, markers(folder), 0)[0] == 1, "of an earlier run"
    (folder / "FINISHED").unlink()
    for reason, code in (("SIGTERM", 75), (LAUNCHER_GONE, 1)):
        (folder / "STOPPED").write_text(f"5 {reason}\n")
        for of_launcher in (0, 75):  # of deepspeed, whose ranks left with 75 when they had saved
            given, line = outcome(folder, before, of_launcher)
            assert given == code and reason in line and "step 5" in line


# Exits with 0 when its child is killed, as deepspeed does.
LAUNCHER = "import subprocess, sys; sys.exit(max(0, subprocess.call([sys.executable, '-c', *sys.argv[1:]])))"
RANK = """
import os, sys, time
from pathlib import Path
from train.dist.lock import claim
from train.liveness import stop
run, claimed = Path(sys.argv[1]), False
stop.install_handlers()
stop.follow_launcher()
(run / "begun").write_text(str(os.getpid()))
(run / "begun").rename(run / "rank")
while not stop.asked():
    if not claimed and (run / "may claim").exists():
        claimed = not claim(run)
    time.sleep(0.02)
(run / "STOPPED").write_text(f"5 {stop.reason()}")
sys.exit(75)
"""
LAUNCH = """
import sys
from pathlib import Path
from launch.deepspeed.running import Launch, carry_out
run, launcher, rank, ssh_host = sys.argv[1:]
command = [sys.executable, "-c", launcher, launcher, rank, run]  # deepspeed, launch.py, a rank
launch = Launch(command, Path(run), {"RANK": "0"}, ssh_host=ssh_host)
try:
    sys.exit(carry_out(launch, False))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def launched(tmp_path):
    """Starts a launch whose rank only waits; returns it, and the processes of deepspeed, launch.py and the rank."""
    started = []

    def start(ssh_host: str = "") -> tuple["subprocess.Popen[str]", list[int]]:
        (tmp_path / "launch").mkdir()
        (tmp_path / "launch" / "exports.sh").touch()
        command = [sys.executable, "-c", LAUNCH, str(tmp_path), LAUNCHER, RANK, ssh_host]
        started.append(subprocess.Popen(command, cwd=ranks.ROOT, stderr=subprocess.PIPE, text=True))
        wait_until((tmp_path / "rank").exists)
        runner = next(pid for pid in ranks.children(started[-1].pid) if ranks.children(pid))
        launcher = ranks.children(runner)[0]
        return started[-1], [runner, launcher, int((tmp_path / "rank").read_text())]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_until(true) -> None:
    deadline = time.monotonic() + ranks.HANGS_AFTER
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_stop_request_waits_until_rank_0_has_written_lock(launched, tmp_path):
    launch, (*_, rank) = launched()
    launch.terminate()
    assert "SIGTERM" in launch.stderr.readline()
    time.sleep(0.5)
    assert lives(rank)
    (tmp_path / "may claim").touch()
    assert launch.wait(600) == 75 and "(SIGTERM) after step 5" in launch.stderr.read()
    assert not (tmp_path / "launch" / "exports.sh").exists()


def test_a_launch_whose_deepspeed_loses_its_child_waits_for_the_ranks_to_save_and_fails(launched, tmp_path):
    """tests/train/test_launcher_faults.py does this to real ranks."""
    launch, (_, launcher, _) = launched()
    (tmp_path / "may claim").touch()
    wait_until((tmp_path / "LOCK").exists)
    os.kill(launcher, signal.SIGKILL)
    assert launch.wait(600) == 1
    line = launch.stderr.read().splitlines()[-1]
    assert line.startswith(f"launch: {LAUNCHER_GONE}: ") and "after step 5" in line


def test_a_second_ctrl_c_kills_the_ranks(launched, monkeypatch):
    launch, processes = launched()
    launch.send_signal(signal.SIGINT)
    assert "SIGINT" in launch.stderr.readline()
    time.sleep(SECONDS_TO_INSIST + 0.1)
    launch.send_signal(signal.SIGINT)
    assert launch.wait(600) == 130
    wait_until(lambda: not any(map(lives, processes)))


@pytest.mark.parametrize("ssh_host", ["", "node1"])
def test_a_launch_killed_with_9_takes_deepspeed_along_and_over_ssh_the_connections(launched, ssh_host, tmp_path):
    launch, processes = launched(ssh_host)
    launch.kill()
    try:
        wait_until(lambda: not lives(processes[0]) and not (tmp_path / "launch" / "exports.sh").exists())
        if ssh_host:
            wait_until(lambda: not any(map(lives, processes)))
        else:
            assert lives(processes[2]), "it saves first, see tests/train/liveness/test_stop.py"
    finally:
        for pid in filter(lives, processes):
            os.kill(pid, signal.SIGKILL)


def test_a_local_launch_stops_when_asked_and_the_same_command_finishes_with_nothing_left(tmp_path):
    """One rank: tests/train/test_launcher_faults.py has two under the same launcher."""
    ground, folder = make_ground(tmp_path), tmp_path / "interrupted"
    straight = ranks.start([str(ground / "recipe.yaml"), f"run.dir={tmp_path}/straight", *LONG], 1, tmp_path / "log")
    command = [sys.executable, "-m", "launch", "launch", "local", str(ground / "recipe.yaml"), f"run.dir={folder}"]
    for interrupted, code, line in (
        (True, 75, "launch: stopped as asked (SIGTERM) after step "),
        (False, 0, f"launch: finished: {folder}"),
    ):
        log = tmp_path / "launched"
        with open(log, "wb") as file:
            running = subprocess.Popen([*command, *LONG, "--ranks", "1"], cwd=ranks.ROOT, stdout=file, stderr=file)
        try:
            if interrupted:
                ranks.wait_for_step(folder, 1)
                running.terminate()
            assert running.wait(ranks.HANGS_AFTER) == code, log.read_text()
        finally:
            running.kill()
            ranks.wait_until_none_is_left(log)
        assert line in log.read_text(), log.read_text()
    assert straight.wait() == [0]
    ours, theirs = (run / "checkpoints/step-00000060/adapter.safetensors" for run in (folder, tmp_path / "straight"))
    assert ours.read_bytes() == theirs.read_bytes()
    assert (folder / "FINISHED").exists() and not (folder / "STOPPED").exists()
