"""Error counts are jiwer's, summed over the corpus; the rules around them are ours."""

import json
import math
from importlib.metadata import version

import jiwer
import pytest

from decode.scoring.counts import ALIGNER, NORMALISERS, Score, by_group, plain, score, score_each, table, verbatim
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


def test_groups_add_up_to_the_whole():
    scores = score_each(REFERENCES, HYPOTHESES)
    groups = by_group(["b", "a", "b"], scores)
    assert list(groups) == ["a", "b"]
    assert groups["a"] == scores[1]
    assert groups["a"] + groups["b"] == score(REFERENCES, HYPOTHESES)


def test_an_empty_reference_has_no_words_and_counts_insertions():
    silent = score(["", "   "], ["what was that", ""])
    assert (silent.words, silent.insertions, silent.errors, silent.characters) == (0, 3, 3, 0)
    assert math.isnan(silent.wer) and math.isnan(silent.cer)
    assert json.loads(json.dumps(silent.as_json(), allow_nan=False))["wer"] is None
    assert score(["", "a b"], ["x", "a b"]).wer == 0.5
    assert score(["a b"], [""]).deletions == 2


def test_nothing_at_all_is_not_a_crash():
    assert score([], []) == Score()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don\u2019t  STOP!", "don't stop"),
        ("'Tis the dogs' rock \u2019n\u2019 roll", "tis the dogs rock n roll"),
        ("well-known, U.S.A. (really?)", "well known u s a really"),
        ("Stra\u00dfe \ufb01n caf\u0065\u0301", "strasse fin caf\u00e9"),
        ("\u00bfqu\u00e9? 5 % \u20ac3", "qu\u00e9 5 3"),
        ("soft\u00adhyphen\u200b \ufeffmark", "softhyphen mark"),
        ("\u0928\u092e\u0938\u094d\u0924\u0947, \u597d\u3002", "\u0928\u092e\u0938\u094d\u0924\u0947 \u597d"),
        ("\tone\u00a0two\n", "one two"),
        ("--- ...", ""),
    ],
)
def test_plain(text, expected):
    assert plain(text) == expected
    assert plain(expected) == expected


def test_verbatim_keeps_case_and_punctuation():
    assert verbatim(" Cafe\u0301,  Don\u2019t\n") == "Caf\u00e9, Don\u2019t"
    assert score(["The cat."], ["the cat"], "verbatim").substitutions == 2
    assert score(["The cat."], ["the cat"], "plain").errors == 0


def test_an_unknown_normaliser_names_the_known():
    with pytest.raises(UserError, match="unknown normaliser 'whisper'; known: verbatim, plain"):
        score(["a"], ["a"], "whisper")


def test_the_command_offers_the_normalisers():
    from launch.scoring import NORMALISERS as CHOICES

    assert set(CHOICES) == set(NORMALISERS)


def test_the_aligner_is_named_with_its_version():
    assert ALIGNER.startswith(f"jiwer {version('jiwer')}")


def test_the_table_lines_up():
    rows = [("anna", score(["a b"], ["a x"])), ("(none)", score([""], [""]))]
    assert table(rows, "speaker").splitlines() == [
        "speaker  utterances  words  WER %  sub  del  ins  CER %",
        "anna              1      2  50.00    1    0    0  33.33",
        "(none)            1      0      -    0    0    0      -",
    ]
