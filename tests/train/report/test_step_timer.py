"""The busy time shows which rank is slow, in every ZeRO stage."""

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import ranks
from train.report.step_timer import StepTimer


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


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
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
