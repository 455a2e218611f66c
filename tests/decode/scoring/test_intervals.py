"""Intervals against a plain implementation; significance against the example that the test was published with."""

import itertools
import time

import numpy as np
import pytest

from decode.scoring.counts import Score
from decode.scoring.intervals import MIN_SPEAKERS, Units, compare, draws, interval, sign_flip_p, units_of

DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
"""Height of crossed minus self-fertilised maize in 15 pairs, in eighths of an inch. Fisher (The Design of
Experiments, 1935, section 21) counts 1,726 of 32,768 choices of signs whose sum is as far from 0: p = 0.0527."""


def scores(errors: list[int], words: list[int]) -> list[Score]:
    return [Score(utterances=1, words=w, substitutions=e) for e, w in zip(errors, words, strict=True)]


def test_the_sign_flip_test_gives_fishers_count():
    p, exact = sign_flip_p(np.array(DARWIN))
    assert exact and p == pytest.approx(1726 / 32768, abs=1e-12)


def test_the_sign_flip_test_is_a_count_over_all_choices_of_signs():
    for differences in ([3], [1, 1, 1], [2, -2], [0, 0, 5, -1, 2], [0]):
        sums = [sum(d * s for d, s in zip(differences, signs, strict=True)) for signs in _signs(len(differences))]
        share = sum(abs(one) >= abs(sum(differences)) for one in sums) / len(sums)
        assert sign_flip_p(np.array(differences))[0] == pytest.approx(share)


def test_a_large_test_is_near_its_normal_limit(monkeypatch):
    differences = np.random.default_rng(1).integers(-3, 4, 2000)
    exact = sign_flip_p(differences)[0]
    monkeypatch.setattr("decode.scoring.intervals.MOST_COUNTED", 0)
    limit, is_exact = sign_flip_p(differences)
    assert not is_exact and limit == pytest.approx(exact, abs=0.01)


def test_an_interval_equals_a_bootstrap_in_plain_python():
    generator = np.random.default_rng(2)
    errors, words = generator.integers(0, 6, 60).tolist(), generator.integers(1, 20, 60).tolist()
    speakers = [f"s{i % 12}" for i in range(60)]
    units = units_of(speakers)
    assert (units.kind, units.number) == ("speaker", 12)
    names, rates = sorted(set(speakers)), []
    for draw in np.concatenate(list(draws(12))).tolist():
        drawn = [i for unit in draw for i in range(60) if speakers[i] == names[unit]]
        rates.append(sum(errors[i] for i in drawn) / sum(words[i] for i in drawn))
        if len(rates) == 300:
            break
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("decode.scoring.intervals.MOST_DRAWS", 300)
        patch.setattr("decode.scoring.intervals.FEWEST_DRAWS", 300)
        patch.setattr("decode.scoring.intervals.AT_A_TIME", 12 * 10_000)
        low, high = interval(scores(errors, words), units) or [0.0, 0.0]
    assert [low, high] == pytest.approx(np.percentile(rates, [2.5, 97.5]).tolist())


def test_whole_speakers_are_drawn_if_there_are_enough():
    assert units_of(["a", "b"] * 20).kind == "utterance"
    assert units_of([*"abcdefghij", ""]).kind == "utterance", "one names none"
    assert units_of([*"abcdefghij"][:MIN_SPEAKERS] * 2).number == MIN_SPEAKERS
    beside = units_of(["", *"abcdefghij", "a", ""], scores([2] + [1] * 11 + [0], [0] + [5] * 11 + [0]))
    assert (beside.kind, beside.of.tolist(), beside.silent) == ("speaker", [10, *range(10), 0, 11], 2)
    assert beside.as_json()["silent_utterances"] == 2
    assert units_of(["", *"abcdefghij"], scores([1] * 11, [5] * 11)).kind == "utterance", "it has words"
    errors = [
        one for speaker in range(12) for one in [speaker % 2 * 4] * 20
    ]  # speakers differ, their utterances do not
    of_speakers = interval(scores(errors, [10] * 240), units_of([f"s{i // 20}" for i in range(240)]))
    of_utterances = interval(scores(errors, [10] * 240), units_of([""] * 240))
    assert of_speakers and of_utterances
    assert of_speakers[1] - of_speakers[0] > 3 * (of_utterances[1] - of_utterances[0])


def test_an_interval_covers_the_true_rate_about_as_often_as_stated(monkeypatch):
    monkeypatch.setattr("decode.scoring.intervals.MOST_DRAWS", 1000)
    generator, covered = np.random.default_rng(3), 0
    for _ in range(200):
        errors = generator.binomial(10, 0.1, 100).tolist()
        low, high = interval(scores(errors, [10] * 100), units_of([""] * 100)) or [0.0, 0.0]
        covered += low <= 0.1 <= high
    assert 180 <= covered <= 199


def test_too_few_utterances_have_no_interval():
    assert interval([Score(utterances=1, words=3)], units_of(["a"])) is None
    assert interval([], units_of([])) is None
    assert interval([Score(utterances=1, insertions=2)] * 3, units_of([""] * 3)) is None
    assert compare([Score(utterances=1)], [Score(utterances=1)], units_of([""])) is None
    some = interval([Score(1, 4, substitutions=2), Score(1, 0, insertions=1)], units_of(["", ""]))
    assert some and some[0] == 0.5, "a draw of silence alone has no rate"


def test_two_systems_are_compared_utterance_by_utterance():
    generator = np.random.default_rng(4)
    errors = generator.integers(0, 5, 200)
    here, there = (
        scores(errors.tolist(), [10] * 200),
        scores((errors + (np.arange(200) % 10 == 0)).tolist(), [10] * 200),
    )
    found = compare(here, there, units_of([""] * 200))
    assert found and found.difference == pytest.approx(-20 / 2000) and found.interval
    assert found.interval[1] < 0 and found.p == pytest.approx(2 / 2**20)
    alone, other = interval(here, units_of([""] * 200)), interval(there, units_of([""] * 200))
    assert alone and other and alone[1] > other[0], "alone they overlap"
    same = compare(here, here, Units("utterance", np.arange(200)))
    assert same and (same.difference, same.interval, same.p) == (0.0, [0.0, 0.0], 1.0)


def test_two_thousand_utterances_take_well_under_a_second():
    many = scores([i % 4 for i in range(2000)], [12] * 2000)
    began = time.process_time()
    interval(many, units_of([""] * 2000))
    assert time.process_time() - began < 2  # 0.2 s alone


def _signs(number: int):
    return itertools.product((1, -1), repeat=number)
