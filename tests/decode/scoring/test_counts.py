"""Error counts are jiwer's, summed over the corpus; the rules around them are ours."""

import json
import math
import random
from importlib.metadata import version

import jiwer
import pytest

from decode.scoring.counts import ALIGNER, Score, by_group, longest_deletion, score, score_each
from model.errors import UserError

REFERENCES = ["the cat sat", "on a mat", "one two three four"]
HYPOTHESES = ["the cat", "on the big mat", "one two three four"]


def test_a_hand_counted_corpus():
    whole = score(REFERENCES, HYPOTHESES)
    assert (whole.utterances, whole.words, whole.hits) == (3, 10, 8)
    assert (whole.substitutions, whole.deletions, whole.insertions, whole.errors) == (1, 1, 1, 3)
    assert whole.wer == 0.3
    assert whole.cer == jiwer.cer(REFERENCES, HYPOTHESES)


def test_corpus_rates_are_jiwers_and_not_a_mean_of_rates():
    assert score(REFERENCES, HYPOTHESES).wer == jiwer.wer(REFERENCES, HYPOTHESES)
    assert score(["a b c d", "e"], ["a b c d", "x"]).wer == 1 / 5


def test_totals_of_a_thousand_random_utterances_are_jiwers():
    draw = random.Random(5)
    references = [" ".join(draw.choices("abcdef", k=draw.randrange(1, 12))) for _ in range(1000)]
    hypotheses = [" ".join(draw.choices("abcdef", k=draw.randrange(0, 12))) for _ in range(1000)]
    ours, theirs = score(references, hypotheses), jiwer.process_words(references, hypotheses)
    for name in ("hits", "substitutions", "deletions", "insertions"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert (ours.wer, ours.cer) == (theirs.wer, jiwer.cer(references, hypotheses))


def test_groups_add_up_to_the_whole_and_numbers_in_their_names_are_in_order():
    scores = score_each(REFERENCES, HYPOTHESES)
    groups = by_group(["b", "a", "b"], scores)
    assert list(groups) == ["a", "b"]
    assert groups["a"] == scores[1]
    assert groups["a"] + groups["b"] == score(REFERENCES, HYPOTHESES)
    names = ["10 to 15 s", "2 to 5 s", "s10", "s9", "(none)", "30 s or more", ""]
    assert list(by_group(names, [Score()] * 7)) == ["", "2 to 5 s", "10 to 15 s", "30 s or more", "(none)", "s9", "s10"]


def test_an_empty_reference_has_no_words_and_counts_insertions():
    silent = score(["", "   "], ["what was that", ""])
    assert (silent.words, silent.insertions, silent.errors, silent.characters) == (0, 3, 3, 0)
    assert math.isnan(silent.wer) and math.isnan(silent.cer)
    assert json.loads(json.dumps(silent.as_json(), allow_nan=False))["wer"] is None
    assert score(["", "a b"], ["x", "a b"]).wer == 0.5
    assert score(["a b"], [""]).deletions == 2


def test_nothing_at_all_is_not_a_crash():
    assert score([], []) == Score()


def test_the_normaliser_decides_what_is_an_error_and_an_unknown_one_gets_a_suggestion():
    assert score(["The cat."], ["the cat"], "verbatim").substitutions == 2
    assert score(["The cat."], ["the cat"], "plain").errors == 0
    assert score(["the colour of twenty-one"], ["the color of 21"], "paper").errors == 0
    with pytest.raises(UserError, match="normaliser 'whisper-englisch' is not known, did you mean 'whisper-english'"):
        score(["a"], ["a"], "whisper-englisch")


def test_the_longest_deletion_is_in_words():
    assert longest_deletion("a b c d e f", "a e") == 3
    assert longest_deletion("a b", "x y z") == 0
    assert longest_deletion("A, b. C!", "", "plain") == 3


def test_the_aligner_is_named_with_its_version():
    assert ALIGNER.startswith(f"jiwer {version('jiwer')}")
