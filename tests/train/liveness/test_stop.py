"""Each test asks a real process, started anew, as handlers and their flag belong to a whole process."""

import os
import signal
import subprocess
import sys

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
