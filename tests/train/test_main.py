"""How ranks leave after an error: its message first, then out, without waiting for what other ranks no longer send."""

from dataclasses import dataclass

import pytest
import torch

from tests import ranks
from tests.accidents import STEP, before_call
from tests.train.runs import command, run


@dataclass(frozen=True)
class Fails:
    """Rank 1 fails at its third step with `error`; a process group that is destroyed never comes back, as NCCL's may
    not, and the run says when it is closed."""

    error: type[BaseException]
    said: str
    at: str = STEP

    def __call__(self, rank: int) -> None:
        from train.run import Run

        torch.distributed.destroy_process_group = self._stall
        close = Run.close

        def closed(self: Run) -> None:
            print(f"rank {rank} closes", flush=True)
            close(self)

        Run.close = closed
        if rank == 1:
            before_call(self.at, 3, self._fail)

    def _fail(self) -> None:
        raise self.error(self.said)

    @staticmethod
    def _stall() -> None:
        import threading

        print("the process group is destroyed", flush=True)
        threading.Event().wait()


@pytest.mark.parametrize(
    ("error", "at", "said", "code"),
    [
        (ArithmeticError, STEP, "ArithmeticError: two and two", 1),
        (torch.OutOfMemoryError, "model.slam_asr:SlamAsr.forward", "train: GPU memory ran out on a micro-batch of", 2),
    ],
)
def test_an_error_is_printed_before_anything_is_closed_and_no_group_is_destroyed(
    ground, tmp_path, error, at, said, code
):
    running = ranks.start(command(ground, tmp_path / "run"), 2, tmp_path / "log", Fails(error, "two and two", at))
    codes, text = running.wait(), running.text()
    assert codes == [1, code] and "the process group is destroyed" not in text, text
    assert 0 <= text.find(said) < text.find("rank 1 closes"), text
    assert text.count(said) == 1 and text.count("Traceback") >= (code == 1)
    assert not (tmp_path / "run" / "FINISHED").exists() and ranks.last_step(tmp_path / "run") >= 1


def test_an_error_in_closing_is_printed_too_and_the_exit_code_is_that_of_the_first(ground, tmp_path):
    wild = "optim.lr=1e30", "optim.warmup_steps=0"
    text = run(ground, tmp_path / "run", *wild, expected=2, before=closing_fails)
    assert 0 <= text.find("train: 3 steps in a row are not finite") < text.find("OSError: no room")
    given = "optim.max_steps=1", "--allow-changes"
    text = run(ground, tmp_path / "run", *given, expected=1, before=closing_fails)
    assert "OSError: no room" in text and (tmp_path / "run" / "FINISHED").exists()


def closing_fails(rank: int) -> None:
    from train.report.metrics import Report

    def close(self: Report) -> None:
        raise OSError("no room")

    Report.close = close
