"""Figures of a run: each step counts once, and no sink ends a training."""

import json

import pytest

from train.report import metrics
from train.report.metrics import Report, StepResult, StepSums
from train.report.sinks import Console, JsonLines
from train.report.time_left import TimeLeft


def result(loss: float, norm: float = 1.0, waited: tuple[float, ...] = (0.0,)) -> StepResult:
    return StepResult(10, norm, 0.1, 0.9, StepSums(loss, 5, 3.0, 0, 10, 0, 0, waited))


class Memory:
    """A sink that remembers."""

    def __init__(self):
        self.rows = []

    def write(self, step, kind, figures):
        self.rows.append((step, kind, figures))

    def close(self):
        pass


def test_an_evaluation_between_reports_takes_neither_steps_nor_time_from_them(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: clock[0])
    sink = Memory()
    report = Report([sink], None, every_steps=4, time_left=TimeLeft(8))
    for step in range(1, 5):
        clock[0] += 1.0
        report.step(step, 0, result(10.0 * step))
        if step == 3:
            clock[0] += 1000.0
            report.evaluation(step, {"loss": 1.0})
    assert [row[:2] for row in sink.rows] == [(3, "dev"), (4, "train")]
    figures = sink.rows[-1][2]
    assert figures["loss"] == pytest.approx(2.5) and figures["steps_per_second"] == pytest.approx(1.0)
    assert figures["seconds_left"] == pytest.approx(4.0)


@pytest.mark.parametrize("step, kept", [(0, []), (1, [0, 1]), (5, [0, 1, 2])])
def test_what_was_not_saved_and_torn_lines_are_taken_out_of_metrics(tmp_path, step, kept):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": number, "kind": "train"}) + "\n" for number in range(3)]
    path.write_bytes("".join(lines).encode() + b"\0\xff\0\n{}\n" + b'{"step": 1')
    sink = JsonLines(path, step)
    sink.write(9, "train", {"loss": float("nan")})
    sink.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [*kept, 9] and rows[-1]["loss"] is None


def test_a_terminal_that_goes_away_does_not_end_the_run(monkeypatch):
    def gone(*args, **kwargs):
        raise BrokenPipeError

    console = Console(total_steps=8, from_step=0)
    monkeypatch.setattr("builtins.print", gone)
    report = Report([], console, every_steps=1, time_left=TimeLeft(8))
    report.say("hello")
    report.step(1, 0, result(1.0))


def test_a_skipped_step_is_counted_and_not_averaged_and_the_rank_that_waits_is_named():
    sink = Memory()
    report = Report([sink], None, every_steps=2, time_left=TimeLeft(8))
    report.step(1, 0, result(20.0, waited=(0.0, 5.0, 1.0)))
    report.step(2, 0, result(float("nan"), norm=float("inf"), waited=(1.0, 5.0, 1.0)))
    figures = sink.rows[-1][2]
    assert figures["loss"] == pytest.approx(2.0) and figures["skipped"] == 1
    assert figures["waited_for_data"] == pytest.approx(10.0) and figures["waited_longest"] == 1
    assert figures["useful_share"] == pytest.approx(0.9) and figures["memory_gb"] > 0
