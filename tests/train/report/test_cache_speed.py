from train.report.cache_speed import WINDOW_STEPS, CacheSpeed
from train.report.step_sums import StepSums


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
