"""Each test asks a real process, started anew: signals that it is sent, launchers that are killed -9 under it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPT = """
import signal, time
from train.liveness import stop
stop.install_handlers()
assert not stop.asked() and stop.reason() == ""
def have_passed(*_):
    stop.SECONDS_TO_INSIST = 0.0
    print("the seconds have passed", flush=True)

signal.signal(signal.SIGUSR2, have_passed)
print("ready", flush=True)
try:
    stop.SECONDS_TO_INSIST = 1000.0
    while not stop.asked():
        time.sleep(0.01)
    print(stop.reason(), flush=True)
    time.sleep(1000)
except KeyboardInterrupt:
    print("insisted", flush=True)
"""


@pytest.fixture
def process():
    env = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"}
    started = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    with started:
        assert started.stdout and started.stdout.readline() == "ready\n"
        yield started
        started.kill()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_asks_to_stop_says_so_at_once_and_is_the_reason(process, name):
    process.send_signal(getattr(signal, name))
    assert process.stdout.readline() == f"{name}\n"
    assert process.stderr.readline().startswith(f"train: {name}: saving and leaving after this step")


def test_a_second_ctrl_c_counts_only_when_it_comes_later_and_the_first_reason_stays(process):
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "SIGTERM\n"
    process.send_signal(signal.SIGINT)  # as a launcher that passes one Ctrl-C on in two ways
    process.send_signal(signal.SIGUSR2)  # which Python handles after a SIGINT that came before it
    assert process.stdout.readline() == "the seconds have passed\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "insisted\n"
    assert process.wait(600) == 0 and process.stderr.read().count("saving and leaving") == 1


def test_a_stderr_that_nobody_reads_any_more_does_not_end_the_run(process):
    process.stderr.close()
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "SIGTERM\n"


LONG = 300.0
"""Seconds that a busy machine may take."""
RANK = """
import os, sys, time
from pathlib import Path
from train.liveness import stop
while len(sys.argv) > 2 and os.getppid() == int(sys.argv[2]):  # until this process is an orphan
    time.sleep(0.01)
stop.install_handlers()
stop.follow_launcher()
folder = Path(sys.argv[1])
(folder / "ready").write_text(str(os.getpid()))
deadline = time.monotonic() + 600
while not stop.asked() and time.monotonic() < deadline:
    time.sleep(0.01)
(folder / "said.tmp").write_text(stop.reason())
(folder / "said.tmp").rename(folder / "said")
"""
LAUNCHER = "import subprocess, sys; sys.exit(subprocess.Popen([sys.executable, *sys.argv[1:]]).wait())"
THREAD_LAUNCHER = """
import subprocess, sys, threading, time
from pathlib import Path
def start():
    subprocess.Popen([sys.executable, *sys.argv[1:]])
    while not Path(sys.argv[-1], "ready").exists():
        time.sleep(0.01)
starter = threading.Thread(target=start)
starter.start(); starter.join()
Path(sys.argv[-1], "thread ended").write_text("yes")
threading.Event().wait()
"""


@contextmanager
def launched(folder: Path, *command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """The outermost process of `command`, once its rank is ready; whatever is left at the end is killed."""
    names = ("RANK", "LOCAL_RANK", "TORCHELASTIC_RUN_ID", "CROSS_SIZE")
    env = {name: value for name, value in os.environ.items() if name not in names} | environment
    process = subprocess.Popen([sys.executable, *command], env=env, start_new_session=True)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the rank is in it, also when its parents are gone
        process.wait()


def read(file: Path, seconds: float) -> str | None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if file.exists() and (text := file.read_text()):
            return text
        time.sleep(0.02)
    return None


def test_a_rank_whose_launcher_is_killed_is_asked_to_stop(tmp_path):
    with launched(tmp_path, "-c", LAUNCHER, "-c", RANK, str(tmp_path), RANK="0") as launcher:
        assert read(tmp_path / "ready", LONG)
        launcher.kill()
        assert read(tmp_path / "said", LONG) == "the launcher is gone"


@pytest.mark.parametrize("victim", ["runner", "launch.py"])
def test_a_rank_notices_when_either_process_of_the_deepspeed_launcher_is_killed(tmp_path, victim):
    module = tmp_path / "deepspeed" / "launcher"
    module.mkdir(parents=True)
    (module / "launch.py").write_text(LAUNCHER)
    middle = str(module / "launch.py")
    with launched(tmp_path, "-c", LAUNCHER, middle, "-c", RANK, str(tmp_path), RANK="0", CROSS_SIZE="1") as runner:
        rank = read(tmp_path / "ready", LONG)
        assert rank
        os.kill(runner.pid if victim == "runner" else parent(int(rank)), signal.SIGKILL)
        assert read(tmp_path / "said", LONG) == "the launcher is gone"


def test_a_launcher_that_was_gone_before_the_rank_looked_is_noticed(tmp_path):
    orphan = "import os, subprocess, sys; subprocess.Popen([sys.executable, *sys.argv[1:], str(os.getpid())])"
    with launched(tmp_path, "-c", orphan, "-c", RANK, str(tmp_path), RANK="0", TORCHELASTIC_RUN_ID="x"):
        assert read(tmp_path / "ready", LONG)
        if parent(int((tmp_path / "ready").read_text())) != 1:
            pytest.skip("orphans are not given to process 1 here")
        assert read(tmp_path / "said", LONG) == "the launcher is gone"


def test_a_plain_run_outlives_the_shell_that_started_it(tmp_path):
    with launched(tmp_path, "-c", LAUNCHER, "-c", RANK, str(tmp_path)) as shell:
        assert read(tmp_path / "ready", LONG)
        shell.kill()
        assert read(tmp_path / "said", 2) is None


def test_the_end_of_the_thread_that_started_a_rank_is_not_the_end_of_its_launcher(tmp_path):
    with launched(tmp_path, "-c", THREAD_LAUNCHER, "-c", RANK, str(tmp_path), RANK="0") as launcher:
        assert read(tmp_path / "ready", LONG) and read(tmp_path / "thread ended", LONG)
        assert read(tmp_path / "said", 1) is None
        launcher.kill()
        assert read(tmp_path / "said", LONG) == "the launcher is gone"


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
