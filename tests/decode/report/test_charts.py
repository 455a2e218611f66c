"""The numbers in charts: bins and their WER, ticks, curves of thousands of steps."""

import pytest

from decode.report.charts import MOST_POINTS, Axis, curves_of, thinned, wer_against
from decode.report.words import align


def test_bins_hold_equally_many_utterances_and_their_wer_is_a_ratio_of_sums():
    rows = [
        {"key": str(i), "reference": "a b", "hypothesis": "a b" if i < 20 else "a x", "seconds": i}
        for i in range(1, 41)
    ]
    chart = wer_against("seconds", "seconds", align(rows, "plain"), "WER against duration")
    assert chart is not None
    assert [bar.says for bar in chart.bars] == [
        "1.00 to 20.50 seconds: WER 2.50 %, 20 utterances, 40 words",
        "20.50 to 40.00 seconds: WER 50.00 %, 20 utterances, 40 words",
    ]
    assert chart.dots.count("M") == 40
    assert wer_against("seconds", "seconds", align(rows[:19], "plain"), "") is None
    assert wer_against("confidence", "confidence", align(rows, "plain"), "") is None


@pytest.mark.parametrize(
    ("low", "high", "log", "labels"),
    [
        (0, 8000, False, ["0", "2,000", "4,000", "6,000", "8,000"]),
        (0.31, 0.36, False, ["0.31", "0.32", "0.33", "0.34", "0.35", "0.36"]),
        (0.3, 11, True, ["0.5", "1", "2", "5", "10"]),
        (1, 1, False, ["1"]),
    ],
)
def test_ticks_are_round_numbers(low, high, log, labels):
    assert [tick.label for tick in Axis(low, high, 0, 100, log).ticks()] == labels


def test_curves_of_a_long_run_are_thinned_and_the_scored_step_is_marked():
    records = [{"step": i, "kind": "train", "loss": 5.0 / (1 + i), "accuracy": None} for i in range(10_000)]
    loss, wer = curves_of([*records, {"step": 9000, "kind": "dev", "wer": 0.5}], scored=9000)
    assert loss.title.startswith("Loss") and 390 <= loss.lines[0].path.count("L") < MOST_POINTS
    assert wer.mark is not None and loss.mark == wer.mark
    assert wer.lines[0].points.startswith(f"M{wer.mark.at:g} ")
    assert len(thinned([(i, i) for i in range(1000)], 10)) == 10
    assert curves_of([]) == curves_of([{"kind": "train", "loss": 1.0}]) == []
