"""The real `deepspeed` command, launch.py and ranks, killed: nothing keeps training, and the same command goes on.

test_faults.py does more to ranks alone, which start faster; liveness/test_stop.py kills `deepspeed` above a rank that
only waits.
"""

import os
import signal
import time
from pathlib import Path

from tests import ranks
from tests.train.runs import assert_same, command
from train.engine.checkpoint import find_newest
from train.liveness.exit_status import AGAIN

KILL, USR1 = signal.SIGKILL, signal.SIGUSR1


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def test_whatever_of_the_real_launcher_is_killed_nothing_keeps_training_and_the_same_command_goes_on(
    ground, straight, tmp_path
):
    steps = "optim.max_steps=50", "save.every_steps=20", "save.total_limit=2"
    arguments, run = command(ground, tmp_path / "run", *steps), tmp_path / "run"
    for victim, number, said in (
        ("launch.py", KILL, "stopped as asked (the launcher is gone)"),
        ("rank", KILL, "exits with return code = "),  # -9, or the other rank's, which launch.py may see first
        ("rank", USR1, "stopped as asked (SIGUSR1)"),
    ):
        before, log = ranks.last_step(run), tmp_path / f"{victim}-{number}"
        running = ranks.launch(arguments, 2, log)
        try:
            ranks.wait_for_step(run, before + 1)
            launcher = ranks.children(running.pid)[0]
            assert len(ranks.children(launcher)) == 2
            pids = {"launch.py": launcher, "rank": ranks.children(launcher)[1]}
            os.kill(pids[victim], number)
            assert (running.wait(ranks.HANGS_AFTER) == AGAIN) == (number == USR1), log.read_text()
        finally:
            ranks.wait_until_none_is_left(log)
        assert not (run / "FINISHED").exists() and said in log.read_text(), log.read_text()
    step = int((run / "STOPPED").read_text().split()[0])
    assert find_newest(run / "checkpoints") == (run / "checkpoints" / f"step-{step:08d}", [])
    ranks.train(arguments, 2, tmp_path / "log")
    assert_same(run, straight(2, 0, *steps), 50)


def test_the_deepspeed_command_killed_before_it_has_started_a_rank_leaves_no_orphan_training(ground, tmp_path):
    log = tmp_path / "log"
    running = ranks.launch(command(ground, tmp_path / "run", "optim.max_steps=100"), 1, log)
    try:
        while not any("deepspeed.launcher" in command_line(pid) for pid in ranks.children(running.pid)):
            assert running.poll() is None, log.read_text()
            time.sleep(0.01)
        running.kill()
        assert running.wait() == -KILL
    finally:
        ranks.wait_until_none_is_left(log)
    assert (tmp_path / "run" / "STOPPED").read_text() == "1 the launcher is gone\n", log.read_text()
