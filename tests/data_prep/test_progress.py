"""Progress of a long job in a log: lines now and then, the last of them once."""

import time

import pytest

from data_prep.progress import Progress


@pytest.mark.parametrize("late", [False, True])
def test_the_end_is_said_once(capsys, monkeypatch, late):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress(3, label="score") as progress:
        now[0] = 20.0
        progress.advance(2)
        now[0] += 20 if late else 1
        progress.advance(1, utterances="3 of 3")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("score: 2 of 3") and lines[1].startswith("score: 3 of 3")
