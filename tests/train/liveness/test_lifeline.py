"""Launchers that are killed -9 under a real process, which must notice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

LONG = 300.0
"""Seconds that a busy machine may take."""
RANK = """
import os, sys, time
from pathlib import Path
from train.liveness import lifeline, stop
while len(sys.argv) > 2 and os.getppid() == int(sys.argv[2]):  # until this process is an orphan
    time.sleep(0.01)
stop.install_handlers()
lifeline.follow_launcher()
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
