"""The busy time shows which rank is slow, in every ZeRO stage; a cache that is slower than encoding is named."""

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import ranks
from train.report.metrics import StepSums
from train.report.speed import WINDOW_STEPS, CacheSpeed, StepTimer


@dataclass(frozen=True)
class Slow:
    """Rank 1 takes longer in every forward; each rank writes its busy and its whole seconds into `folder`."""

    folder: Path
    seconds: float

    def __call__(self, rank: int) -> None:
        from model.slam_asr import SlamAsr

        forward, take = SlamAsr.forward, StepTimer.take

        def slow(*args, **kwargs):
            time.sleep(self.seconds if rank == 1 else 0)
            return forward(*args, **kwargs)

        def recorded(timer: StepTimer) -> tuple[float, float]:
            seconds, busy = take(timer)
            with open(self.folder / f"pace-{rank}", "a") as file:
                file.write(f"{seconds} {busy}\n")
            return seconds, busy

        setattr(SlamAsr, "forward", slow)  # noqa: B010 - pyright minds the plain form
        setattr(StepTimer, "take", recorded)  # noqa: B010


@pytest.mark.parametrize("stage", [0, 2, 3])  # ZeRO-1 is the code of ZeRO-2
def test_a_slow_rank_is_busier_than_those_that_wait_for_it(ground, tmp_path, stage):
    """Two micro-batches a step and rank, 0.3 s more in each. In ZeRO-3 the others wait for it in their forward too."""
    arguments = [str(ground / "recipe.yaml"), f"run.dir={tmp_path / 'run'}", "optim.max_steps=4"]
    ranks.train([*arguments, "--deepspeed", f"zero{stage}"], 2, tmp_path / "log", before=Slow(tmp_path, 0.3))
    (waiting, own), (seconds, slow) = (paces(tmp_path / f"pace-{rank}") for rank in (0, 1))
    assert min(slow) >= 0.6 and min(waiting) >= 0.6 and all(map(float.__ge__, seconds, slow))
    if stage < 3:  # of three steps at least one is not disturbed by what else this host does
        assert min(own) < min(slow) - 0.3
    assert all(map(float.__le__, own, waiting))


def paces(path: Path) -> list[list[float]]:
    """The whole and the busy seconds of each step but the first."""
    steps = [[float(word) for word in line.split()] for line in path.read_text().splitlines()[1:]]
    return [[step[i] for step in steps] for i in (0, 1)]


def sums(waited: float, seconds: float = 80.0) -> StepSums:
    return StepSums(1.0, 1, seconds, 0, 10, 0, 0, (waited, waited))


def lines(folders, waits):
    speed = CacheSpeed(folders, 0)
    return [line for step, wait in enumerate(waits, 1) for line in speed.step(step, sums(wait))]


def test_frames_that_are_waited_for_longer_than_encoding_takes_are_warned_about_once(tmp_path):
    """80 s of audio a step on two ranks that encode 40 s in a second: encoding takes each 1 s."""
    speed = '{"audio_seconds_per_second": 40.0, "device": "a GPU", "ranks": 2}'
    (tmp_path / "speed.json").write_text(speed)
    steps = 3 * WINDOW_STEPS
    assert lines([str(tmp_path)], [0.9] * steps) == []
    assert lines([str(tmp_path)], [30.0] + [0.1] * (steps - 1)) == []  # a slow start
    (line,) = lines([str(tmp_path)], [1.2] * steps)
    assert "waits 1.20 s a step" in line and "a GPU encoded as much audio in 1.00 s" in line and "int8" in line


def test_a_cache_of_unknown_speed_is_not_judged(tmp_path):
    assert lines([str(tmp_path)], [9.0] * WINDOW_STEPS) == []
    (tmp_path / "speed.json").write_text("{}")
    assert lines([str(tmp_path)], [9.0] * WINDOW_STEPS) == []
