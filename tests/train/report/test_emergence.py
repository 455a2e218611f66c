"""The emergence watch, over a real curve and over made ones of runs that go right and wrong."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from train.report.emergence import Emergence

DEMO = {  # a run on the stand-ins: reports of token accuracy by step, all it went through
    **{25: 0.584, 50: 0.775, 75: 0.894, 100: 0.936, 125: 0.945, 150: 0.950, 175: 0.963, 200: 0.973, 225: 0.983},
    **{250: 0.980, 275: 0.981, 300: 0.986, 325: 0.984, 350: 0.986, 375: 0.996, 400: 0.996, 425: 0.997, 450: 0.995},
}
PATIENCE, WARMUP = 2000, 1000


def curve(steps: int, jump_at: int | None = None, plateau: float = 0.4, last: float = 0.95) -> Iterator[dict]:
    """Reports every 10 steps and checks every 200, as metrics.jsonl has them, with the noise of small batches."""
    rng = np.random.default_rng(0)
    for step in range(10, steps + 1, 10):
        height = plateau * (1 - math.exp(-step / 150))
        rise = 0.0 if jump_at is None else 1 / (1 + math.exp(-(step - jump_at) / 60))
        record = {"step": step, "kind": "train", "accuracy": height + (last - plateau) * rise + rng.normal(0, 0.006)}
        if step % 200 == 0:
            record["audio_gap"] = 2.5 * rise + rng.normal(0, 0.008)
        yield record | {"loss": 3 - 2.8 * rise}


def watched(records: Iterable[dict], watch: Emergence | None = None) -> list[str]:
    """All lines over these records."""
    watch, lines = watch or Emergence(PATIENCE, WARMUP), []
    for record in records:
        if "audio_gap" in record:
            lines += watch.gap(record["step"], record["audio_gap"])
        lines += watch.accuracy(record["step"], record["accuracy"], record["loss"])
    return lines


def step_of(line: str) -> int:
    return int(line.split(":")[0].removeprefix("step "))


def test_a_run_that_learns_at_once_gets_that_line_and_no_other():
    lines = watched({"step": step, "accuracy": value, "loss": 0.1} for step, value in DEMO.items())
    (line,) = lines
    assert line.startswith("step 200: the LLM transcribes: token accuracy (smoothed over 100 steps) rose from ")
    assert line.endswith("from 0.58 at step 25 to 0.75 at step 75"), "means: the report of step 75 alone says 0.894"


def test_emergence_after_a_long_plateau_is_reported_once():
    watch = Emergence(PATIENCE, WARMUP)
    lines = watched(curve(12_000, jump_at=6000), watch)
    ignored, plateau, *rest = lines
    assert "does not use the audio" in ignored and 2000 <= step_of(ignored) <= 2400
    assert (
        "no progress in 2,000 steps: token accuracy (smoothed over 100 steps) 0.40, loss 3.00" in plateau
        and 3000 <= step_of(plateau) <= 3300
    )
    assert "usual before emergence" in ignored and "usual before emergence" in plateau
    uses, transcribes = sorted(rest, key=lambda line: "transcribes" in line)
    assert "uses the audio: another utterance's speech in place of its own changes the loss by +1." in uses
    assert 6000 <= step_of(uses) <= 6400
    assert "rose from 0.5" in transcribes and 6000 <= step_of(transcribes) <= 6400
    assert watch.emerged_at is not None and 6000 <= watch.emerged_at <= 6100


def test_a_good_run_whose_accuracy_rises_slowly_to_the_end_gets_no_alarm():
    records = curve(20_000, jump_at=500, last=0.92)
    lines = watched(r | {"accuracy": r["accuracy"] + 0.04 * r["step"] / 20_000} for r in records)
    assert len(lines) == 2 and "uses the audio" in "".join(lines) and "transcribes" in "".join(lines)


def test_a_dead_run_reports_its_plateau_once_and_the_closed_gap_every_five_thousand_steps():
    lines = watched(curve(20_000))
    (plateau,) = [step_of(line) for line in lines if "no progress" in line]
    assert 3000 <= plateau <= 3300
    closed = [step_of(line) for line in lines if "does not use" in line]
    assert len(lines) == len(closed) + 1 and 2000 <= closed[0] <= 2400
    assert {b - a for a, b in zip(closed, closed[1:], strict=False)} == {5000} and len(closed) == 4


def test_a_run_in_its_warm_up_or_too_short_to_judge_is_left_alone():
    assert watched(curve(3500), Emergence(PATIENCE, 4000)) == []
    assert watched(curve(1900)) == []


def test_a_standstill_after_emergence_gets_other_advice_and_a_new_plateau_its_own_line():
    two_stages = (
        r | {"accuracy": r["accuracy"] + (0.05 if r["step"] > 7000 else 0)}
        for r in curve(12_000, jump_at=500, last=0.8)
    )
    plateaus = [line for line in watched(two_stages) if "no progress" in line]
    assert len(plateaus) == 2 and step_of(plateaus[0]) < 7000 < 9000 <= step_of(plateaus[1])
    assert all("larger adapter" in line and "emergence" not in line for line in plateaus)


def test_an_accuracy_that_falls_and_a_gap_that_closes_again_are_reported():
    fallen = ({**r, "accuracy": 0.35, "audio_gap": 0.0} if r["step"] > 6000 else r for r in curve(9000, jump_at=500))
    lines = watched(r if r["step"] % 200 == 0 else {k: v for k, v in r.items() if k != "audio_gap"} for r in fallen)
    alarms = [line for line in lines if step_of(line) > 6000]
    assert len(alarms) == 2 and all("before it fell" in line for line in alarms)
    assert "token accuracy" in alarms[0] and "at best 0.95" in alarms[0]
    assert "stopped using the audio" in alarms[1] and 7200 <= step_of(alarms[1]) <= 7600


def test_a_gap_that_opens_again_is_reported_again_and_one_odd_check_is_not():
    watch, gaps = Emergence(PATIENCE, 0), [0.0] * 4 + [3.0] + [0.0] * 4 + [1.0] * 3 + [0.0] * 9 + [1.0] * 3
    lines = [line for i, gap in enumerate(gaps) for line in watch.gap(200 * (i + 1), gap)]
    assert [line.split(":")[1].removeprefix(" the LLM ") for line in lines] == [
        "does not use the audio",
        "uses the audio",
        "stopped using the audio",
        "uses the audio",
    ]


def test_an_accuracy_that_knowledge_of_the_texts_explains_is_not_taken_for_emergence():
    records = [r | ({"audio_gap": 0.0} if "audio_gap" in r else {}) for r in curve(5000, plateau=0.85)]
    assert not any("transcribes" in line for line in watched(records))
    without_gap = [{k: v for k, v in r.items() if k != "audio_gap"} for r in records]
    assert any("transcribes" in line for line in watched(without_gap))


def test_figures_that_are_not_finite_are_ignored():
    watch = Emergence(PATIENCE, WARMUP)
    assert watch.accuracy(10, math.nan, 1.0) == watch.gap(10, math.inf) == []
    assert watched(curve(12_000, jump_at=6000), watch) == watched(curve(12_000, jump_at=6000))


@pytest.mark.parametrize("kind", ["dead", "emerging"])
def test_a_resumed_run_says_from_there_what_an_unbroken_one_would(kind):
    records = list(curve(8000, jump_at=None if kind == "dead" else 6000))
    unbroken = watched(records)
    assert len(unbroken) == (3 if kind == "dead" else 4)
    for stop in range(1990, 8000, 290):
        earlier = [r for r in records if r["step"] <= stop]
        earlier += [{"step": stop, "kind": "dev", "accuracy": 0.99, "loss": 0.1}, {"kind": "train"}, {}]
        watch = Emergence.from_metrics(earlier, PATIENCE, WARMUP)
        assert watched((r for r in records if r["step"] > stop), watch) == [u for u in unbroken if step_of(u) > stop]
