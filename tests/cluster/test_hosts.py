"""`slam-asr launch hostfile` on two real hosts: over ssh and without, and what a pulled cable does to it.

"The same adapter" is bit-identical to that of a run on one machine that nothing happened to.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import ranks
from tests.cluster.conftest import require
from tests.cluster.netlab import NAMES, Netlab, netlab
from tests.train.conftest import make_ground
from train.liveness.exit_status import LAUNCHER_GONE

STEPS = 60
CARRIED = {"GLOO_SOCKET_IFNAME": "eth0", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
OF_A_RUN = (f"optim.max_steps={STEPS}", "save.every_steps=1000", "watch.every_steps=null")
TIMEOUT, STALL = 12, 8
"""Seconds, where the cable is pulled for good."""
SECONDS_TO_LEAVE = 150
"""Beyond the time-out: launch.py and pdsh end, and the host is tried once more."""
NO_SSH = "--no-ssh", "--master-port", "23457"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    require("sshd", "ssh", "pdsh", "ip", "unshare", "nsenter", root=True)
    with netlab(tmp_path_factory.mktemp("netlab")) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def ground(lab, tmp_path_factory):
    folder = make_ground(tmp_path_factory.mktemp("ground"))
    (folder / "hosts").write_text("".join(f"{name} slots=1\n" for name in NAMES))
    return folder


@pytest.fixture(scope="module")
def straight(ground):
    """Starts the run that nothing happened to, two ranks here, when first called; to be called while others wait."""
    started: list[ranks.Ranks] = []

    def begun() -> ranks.Ranks:
        if not started:
            given = [str(ground / "recipe.yaml"), f"run.dir={ground}/straight", *OF_A_RUN]
            started.append(ranks.start(given, 2, ground / "straight.log"))
        return started[0]

    return begun


def start(
    lab: Netlab, host: str, ground: Path, folder: Path, log: Path, options: Sequence[str] = ()
) -> "subprocess.Popen[Any]":
    """`slam-asr launch hostfile` on a host."""
    command = [sys.executable, "-m", "launch", "launch", "hostfile", str(ground / "hosts"), str(ground / "recipe.yaml")]
    return lab.start(host, [*command, f"run.dir={folder}", *OF_A_RUN, *options], log, CARRIED)


def assert_same(folder: Path, ground: Path, straight: Callable[[], ranks.Ranks]) -> None:
    """Finished, with the same adapter."""
    assert straight().wait() == [0, 0], straight().text()
    name = f"checkpoints/step-{STEPS:08d}/adapter.safetensors"
    assert (folder / "FINISHED").exists() and not (folder / "STOPPED").exists()
    assert (folder / name).read_bytes() == (ground / "straight" / name).read_bytes()


def wait_until_nothing_is_left(lab: Netlab) -> None:
    """A launch waits for rank 0; other ranks, and those of a host that it has lost, end by themselves."""
    deadline = time.monotonic() + 300
    while left := [f"{name}: {line}" for name in NAMES for line in lab.processes(name)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def test_over_ssh_a_run_saves_when_asked_or_its_launcher_is_killed_and_survives_a_cable_out_for_six_seconds(
    lab, ground, straight, tmp_path
):
    folder, log = tmp_path / "run", tmp_path / "asked"
    running = start(lab, "hosta", ground, folder, log)
    ranks.wait_for_step(folder, 2)
    lab.signal(running, signal.SIGTERM)
    assert running.wait(600) == 75, log.read_text()
    assert re.search(r"launch: stopped as asked \(SIGTERM\) after step \d+; ", log.read_text())
    wait_until_nothing_is_left(lab)
    before, log = ranks.last_step(folder), tmp_path / "killed"
    running = start(lab, "hosta", ground, folder, log)
    ranks.wait_for_step(folder, before + 1)
    lab.signal(running, signal.SIGKILL)
    running.wait(600)
    wait_until_nothing_is_left(lab)
    assert LAUNCHER_GONE in (folder / "STOPPED").read_text() and not (folder / "launch" / "exports.sh").exists()
    before, log = ranks.last_step(folder), tmp_path / "cut"
    running = start(lab, "hosta", ground, folder, log)
    ranks.wait_for_step(folder, before + 1)
    lab.cable("hostb", "down")
    try:
        straight()
        time.sleep(6)
        assert running.poll() is None and ranks.last_step(folder) < STEPS
    finally:
        lab.cable("hostb", "up")
    assert running.wait(600) == 0, log.read_text()
    assert f"launch: finished: {folder}" in log.read_text()
    wait_until_nothing_is_left(lab)
    assert_same(folder, ground, straight)


def test_a_cable_pulled_for_good_ends_the_launch_and_it_goes_on_without_ssh(lab, ground, straight, tmp_path):
    folder, log = tmp_path / "run", tmp_path / "cut"
    limits = f"run.collective_timeout_seconds={TIMEOUT}", f"run.stall_seconds={STALL}"
    running = start(lab, "hosta", ground, folder, log, limits)
    ranks.wait_for_step(folder, 2)
    lab.cable("hostb", "down")
    try:
        pulled = time.monotonic()
        straight()
        assert running.wait(600) not in (0, 75), log.read_text()
        assert time.monotonic() - pulled < TIMEOUT + SECONDS_TO_LEAVE
        wait_until_nothing_is_left(lab)
    finally:
        lab.cable("hostb", "up")
    logs = [tmp_path / name for name in NAMES]
    both = [
        start(lab, name, ground, folder, logs[rank], (*NO_SSH, "--node-rank", str(rank)))
        for rank, name in enumerate(NAMES)
    ]
    assert [one.wait(600) for one in both] == [0, 0], "".join(log.read_text() for log in logs)
    wait_until_nothing_is_left(lab)
    assert_same(folder, ground, straight)


@pytest.mark.parametrize(
    "settings, wrong, seconds",
    [
        (["ServerAliveInterval 0"], "", None),
        (["ServerAliveInterval 15", "ServerAliveCountMax 3"], "", 60),
        (["ServerAliveInterval 15", "User nobody"], "ssh hostb without a password fails: nobody@hostb: Permission", 60),
    ],
)
def test_ssh_tells_what_keeps_a_host_from_being_reached_and_when_it_gives_up(lab, settings, wrong, seconds):
    ask = "from launch.deepspeed import ssh; print(ssh.keepalive_seconds('hostb'), ssh.reach('hostb', 2))"
    config = lab.folder / "ssh" / "config"
    before = config.read_text()
    config.write_text(before + "".join(f"{line}\n" for line in settings))
    try:
        said = lab.run("hosta", sys.executable, "-c", ask).stdout
    finally:
        config.write_text(before)
    assert said.startswith(f"{seconds} {wrong}") and bool(said.split(" ", 1)[1].strip()) == bool(wrong), said


def test_the_doctor_tries_the_hosts_of_a_hostfile_and_names_the_one_it_cannot_reach(lab, ground, tmp_path):
    (tmp_path / "hosts").write_text("hosta slots=1\nhostb slots=1\nhostc slots=1\n")
    command = [sys.executable, "-m", "launch", "doctor", str(ground / "recipe.yaml"), "--hostfile"]
    done = lab.run("hosta", *command, str(tmp_path / "hosts"))
    assert done.returncode == 1 and done.stdout.endswith("1 thing would stop this training\n"), (
        done.stdout + done.stderr
    )
    assert re.search(r"^FAIL  ssh +hostc +ssh hostc without a password fails", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"ssh +hosta, hostb +", done.stdout), done.stdout


def test_the_hosts_are_gone_when_the_process_that_holds_them_is_killed(lab, tmp_path):
    program = f"""
import sys, time; from pathlib import Path; from tests.cluster.netlab import netlab
with netlab(Path({str(tmp_path)!r})) as lab:
    print(lab.holder, flush=True); time.sleep(600)"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ranks.ROOT, stdout=subprocess.PIPE) as running:
        assert running.stdout
        holder = int(running.stdout.readline())
        running.kill()
    deadline = time.monotonic() + 300
    while os.path.exists(f"/proc/{holder}/ns/net"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert str(tmp_path) not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
