"""The time a run will still take, and what it took so far."""

import pytest

from train.report.time_left import TimeLeft, reports, seconds_of


def test_steps_and_evaluations_that_are_still_to_come_both_count():
    left = TimeLeft(total_steps=100, eval_every=20, evaluation_steps=5)
    left.step(9.0)
    assert left.seconds(1) == 99 * 9 + 5 * 5 * 9, "the first step is all that is known"
    for _ in range(9):
        left.step(2.0)
    assert left.seconds(10) == 90 * 2 + 5 * 5 * 2, "the first step of a process is slow"
    left.evaluation(30.0)
    assert left.seconds(20) == 80 * 2 + 4 * 30 and left.seconds(99) == 2 + 30 and left.seconds(100) == 0


def test_one_slow_report_does_not_multiply_the_time_left():
    left = TimeLeft(total_steps=1000)
    for seconds in [5.0] * 190 + [60.0] * 10:  # another process took the machine
        left.step(seconds)
    assert left.seconds(200) == pytest.approx(800 * 7.75, rel=0.01)


def test_the_time_of_a_run_is_that_of_its_steps_and_evaluations_and_can_be_divided_at_a_step(tmp_path):
    rows = [{"step": 10 * i, "kind": "train", "steps_per_second": 0.5} for i in range(1, 6)]
    rows.insert(3, {"step": 30, "kind": "dev", "loss": 1.0, "seconds": 40.0})
    assert seconds_of(rows) == 5 * 20 + 40
    assert seconds_of(rows, after=30) == 2 * 20 and seconds_of(rows, after=25) == 10 + 40 + 40
    assert seconds_of([{"step": 10, "kind": "train", "steps_per_second": None}, {"step": "x"}, {}]) == 0
    assert reports(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "kind": "train"}\n{"kind": "dev"}\n{"st')
    assert [row["step"] for row in reports(tmp_path)] == [1]


def test_figures_that_are_not_finite_count_for_nothing():
    nan = float("nan")
    assert seconds_of([{"step": 5, "steps_per_second": nan, "seconds": float("inf")}, {"step": 6, "seconds": nan}]) == 0
