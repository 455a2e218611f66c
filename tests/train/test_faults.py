"""Processes that are killed, stopped or asked to leave: what is left then, and that the same command goes on.

"The same adapter" is bit-identical to that of the run that was never interrupted, on as many ranks.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_prep.build.build import BuildOptions, build
from tests import ranks
from tests.accidents import SAVE, VALIDATION, OtherCode, Recorded, Signalled
from tests.train.conftest import speak
from tests.train.runs import assert_same, command, refusal
from train.liveness.exit_status import AGAIN

KILL, TERM, USR1 = signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1


@pytest.mark.parametrize(
    "world, stage, victims", [(2, 0, [(0,), (1,), (0, 1)]), (2, 3, [(1,)])], ids=["ZeRO 0", "ZeRO 3"]
)
def test_ranks_killed_with_9_leave_nothing_running_and_the_same_command_goes_on(
    ground, straight, tmp_path, world, stage, victims
):
    arguments, log, step = command(ground, tmp_path / "run", stage=stage), tmp_path / "log", 0
    for killed in victims:
        running = ranks.start(arguments, world, log, before=Signalled(KILL, killed, nth=3))
        codes = running.wait()
        assert -KILL in codes and 0 not in codes and not ranks.writers(log), running.text()
        assert [codes[rank] for rank in killed] == [-KILL] * len(killed)
        step += 2  # the third step of each start is not taken, and one in two is saved
        assert not (tmp_path / "run" / "FINISHED").exists() and ranks.last_step(tmp_path / "run") == step
        assert f"process {running.processes[0].pid} on " in (tmp_path / "run" / "LOCK").read_text(), "of a dead one"
    assert re.search(f"resuming from .*step-0*{step} ", ranks.train(arguments, world, tmp_path / "last.log"))
    assert_same(tmp_path / "run", straight(world, stage))


def test_killed_between_two_ranks_one_rank_and_three_no_utterance_is_missed_or_told_twice(ground, straight, tmp_path):
    arguments, last = command(ground, tmp_path / "run"), {}
    for start, (world, accident) in enumerate(
        [(2, Signalled(KILL, (1,), nth=4)), (1, Signalled(KILL, (0,), nth=4)), (3, None)]
    ):
        keys = tmp_path / f"keys-{start}"
        codes = ranks.start(arguments, world, tmp_path / "log", before=Recorded(keys, accident)).wait()
        assert (codes == [0] * world) == (accident is None)
        steps: dict[tuple[int, int], list[str]] = {}
        for line in [json.loads(line) for path in keys.iterdir() for line in path.read_text().splitlines()]:
            steps.setdefault((line["epoch"], line["step"]), []).extend(line["keys"])
        last |= steps  # a step that was not saved is taken again
    assert [step for _, step in sorted(last)] == [*range(1, 9)]
    for epoch in range(max(last)[0]):  # the last one may be cut short
        told = [key for (other, _), keys in last.items() if other == epoch for key in keys]
        assert sorted(told) == [f"utt-{number:03d}" for number in range(24)]
    assert ranks.losses(tmp_path / "run") == pytest.approx(ranks.losses(straight(2)), rel=1e-5)


def test_asked_to_stop_at_any_moment_all_ranks_save_and_leave_and_the_same_command_goes_on(ground, straight, tmp_path):
    watched = [f"data.dev={ground / 'dev'}", "data.max_dev_samples=5", "eval.every_steps=2", "save.every_steps=4"]
    arguments, run = command(ground, tmp_path / "run", *watched), tmp_path / "run"
    for asked, step in (
        (Signalled(TERM, (1,), VALIDATION), 3),  # of step 2
        (Signalled(USR1, (0,), SAVE), 5),  # of step 4
        (Signalled(TERM, (0, 1), nth=2), 7),
    ):
        log = tmp_path / f"{step}.log"
        running = ranks.start(arguments, 2, log, before=asked)
        assert running.wait() == [AGAIN, AGAIN] and not ranks.writers(log), running.text()
        assert f"stopped as asked ({asked.number.name}) after step {step};" in running.text()
        assert (run / "STOPPED").read_text() == f"{step} {asked.number.name}\n" and not (run / "FINISHED").exists()
        assert (run / "checkpoints" / f"step-{step:08d}").is_dir()
    ranks.train(arguments, 2, tmp_path / "log")
    assert_same(run, straight(2))


def test_asked_to_stop_while_torch_is_imported_it_takes_one_step_saves_and_leaves(ground, tmp_path):
    log = tmp_path / "log"
    with open(log, "w") as file:
        running = subprocess.Popen(
            [sys.executable, "-m", "train", *command(ground, tmp_path / "run")], cwd=ranks.ROOT, stderr=file
        )
    maps, deadline = Path(f"/proc/{running.pid}/maps"), time.monotonic() + ranks.HANGS_AFTER
    while "libtorch_cpu" not in maps.read_text():
        assert time.monotonic() < deadline
    running.send_signal(USR1)
    assert running.wait(ranks.HANGS_AFTER) == AGAIN and "LOCK" not in log.read_text()
    assert (tmp_path / "run" / "STOPPED").read_text() == "1 SIGUSR1\n"
    assert (tmp_path / "run" / "checkpoints" / "step-00000001").is_dir()


def test_a_rank_that_stands_still_is_named_and_no_rank_is_left(ground, tmp_path):
    log, limits = tmp_path / "log", ("run.stall_seconds=10", "optim.max_steps=100")
    stopped = Signalled(signal.SIGSTOP, (1,), nth=3, after=5.0)  # its beats, one a second, have told where it is
    running = ranks.start(command(ground, tmp_path / "run", *limits), 2, log, before=stopped)
    first, second = running.processes
    try:
        first.join(ranks.HANGS_AFTER)
        assert first.exitcode == AGAIN
        silent = rf"rank 1 \(\S+, pid {second.pid}\) has sent no heartbeat for \d+ s"
        named = rf"watchdog: {silent}, last seen in '\w+' at step 2;"
        assert re.search(named, running.text()), running.text()
        assert "train_step" in (tmp_path / "run" / "stacks" / "rank-00000.txt").read_text()
        assert ranks.writers(log) == [second.pid], "a stopped process cannot end itself: the launcher kills it"
        os.kill(second.pid, signal.SIGCONT)
        assert running.wait()[1] not in (0, None) and not ranks.writers(log)
    finally:
        second.kill()


@pytest.mark.parametrize("differs", ["optim.lr", "save.every_steps", "code", "training data"])
def test_ranks_that_do_not_run_the_same_are_refused_and_the_difference_is_named(ground, tmp_path, differs):
    build([speak(tmp_path, "utt-0", np.random.default_rng())], tmp_path / "other", BuildOptions())
    own = {"training data": [f"data.train={tmp_path / 'other'}"], "code": []}.get(differs, [f"{differs}=1"])
    before = OtherCode(tmp_path / "code") if differs == "code" else None
    log = tmp_path / "log"
    running = ranks.start(command(ground, tmp_path / "run"), 2, log, before, own={1: own})
    assert running.wait() == [2, 2], running.text()
    said = f"the ranks do not run the same {differs}: rank 0 on .* has .*, rank 1 on .* has "
    assert re.search(said, refusal(running.text()))
    assert not (tmp_path / "run" / "checkpoints").exists()
