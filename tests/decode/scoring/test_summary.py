"""A complete scoring: groups, flags and rates, two systems, and the table."""

import pytest

from decode.scoring.reading import Row
from decode.scoring.results import nemo_rows, result_rows
from decode.scoring.summary import against, groups, matched, summarise
from decode.scoring.table import report
from model.errors import UserError

ROWS = [
    Row("a", "the cat", "The cat.", seconds=1.5, fields={"speaker": "anna", "room": "hall", "audio": "a.flac"}),
    Row("b", "", "thank you for watching", seconds=12.0, fields={"speaker": "ben", "voice": "m4"}),
    Row("c", "", "", "too-short", seconds=0.1, fields={"speaker": "ben"}),
    Row("d", "one two three four five six seven", "one seven", "cut", 0.5, 31.0, {"speaker": "anna"}),
    Row("e", "well", "of the " * 20, "loop", 0.25, 2.0, {"speaker": "ben"}),
    Row("f", "hm", "hm", seconds=3.0, fields={"silent": True}),
]


def test_rates_and_flags_are_of_the_first_normaliser():
    summary = summarise(ROWS, ["plain", "verbatim"], ["speaker", "duration"])
    assert list(summary.flags) == [[], ["hallucination"], [], ["deletion-burst"], ["loop"], ["hallucination"]]
    assert summary.rates == {
        "loops": 1,
        "silent_utterances": 3,
        "hallucinated_utterances": 2,
        "hallucinated_words": 5,
        "deletion_bursts": 1,
        "deletion_burst_words": 5,
    }
    assert summary.notes == {"cut": ["d"], "loop": ["e"], "too-short": ["c"]}
    assert list(summary.by["duration"]) == ["0 to 2 s", "2 to 5 s", "10 to 15 s", "30 s or more"]
    assert list(summary.by["speaker"]) == ["(none)", "anna", "ben"]
    assert summary.totals["verbatim"].score.substitutions == summary.totals["plain"].score.substitutions + 2
    document = summary.as_json()
    assert document["all"] == document["normalisers"]["plain"] and document["normaliser"] == "plain"
    assert document["bootstrap"] == {"unit": "utterance", "units": 6, "draws": 10_000, "seed": 0}
    low, high = document["all"]["interval"]
    assert low <= document["all"]["wer"] <= high and document["by"]["speaker"]["(none)"]["interval"] is None


def test_rows_of_results_and_of_a_nemo_manifest():
    first, *_, loop, _ = result_rows(summarise(ROWS, ["plain"]), ["room", "duration"])
    assert first == {
        "speaker": "anna",
        "room": "hall",
        "audio": "a.flac",
        "key": "a",
        "reference": "the cat",
        "hypothesis": "The cat.",
        "note": "",
        "confidence": None,
        "seconds": 1.5,
        **dict.fromkeys(("errors", "substitutions", "deletions", "insertions"), 0),
        "words": 2,
        "flags": [],
    }
    assert (loop["confidence"], loop["insertions"], loop["flags"]) == (0.25, 39, ["loop"])
    manifest = nemo_rows(ROWS)
    expected = {"audio_filepath": "a.flac", "duration": 1.5, "text": "the cat", "pred_text": "The cat.", "key": "a"}
    assert manifest[0] == expected and manifest[1]["audio_filepath"] == "b"


def test_a_field_that_no_utterance_has_is_refused():
    with pytest.raises(UserError, match="no utterance has a field 'speeker', did you mean speaker.; known: audio, dur"):
        groups("speeker", ROWS)
    assert groups("speaker", [Row("a", "", "", fields={"speaker": 0}), Row("b", "", "")]) == ["0", "(none)"]
    with pytest.raises(UserError, match="no utterance has a field 'duration'; known: speaker"):
        summarise([Row("a", "x", "x", fields={"speaker": "s"})], ["plain"], ["duration"])


def test_two_systems_need_the_same_utterances_and_references():
    rows = [Row(f"u{i}", "a b c d", "a b c d" if i % 4 else "a b c", fields={"speaker": f"s{i}"}) for i in range(40)]
    others = [Row(row.key, row.reference, "a b c", fields=row.fields) for row in reversed(rows)]
    summary = summarise(rows, ["plain", "verbatim"])
    other = summarise(matched(rows, others, "here", "there"), ["plain", "verbatim"])
    found = against(summary, other)
    assert found["plain"] == found["verbatim"]
    assert found["plain"].difference == -30 / 160 and found["plain"].p == pytest.approx(2 / 2**30)
    assert found["plain"].test == "paired sign-flip test by speaker, exact"
    text = report(summary, {"rtfx": 12.34}, found)
    assert "against 25.00 % under plain: difference -18.75 [-21.88, -15.00], p = 1.9e-09 (paired sign-flip" in text
    assert "speed            12.3 times real time (RTFx)" in text and "40 speakers" in text
    with pytest.raises(UserError, match="1 utterance of here missing in there: u0"):
        matched(rows, others[:-1], "here", "there")
    with pytest.raises(UserError, match="here and there have different references of u0: 'a b c d' and 'a'"):
        matched(rows, [*others[:-1], Row("u0", "a", "a")], "here", "there")


def test_the_tables_line_up():
    rows = [Row("1", "a b", "a x", fields={"speaker": "anna"}), Row("2", "", ""), Row("3", "c", "c")]
    assert report(summarise(rows, ["plain"], ["speaker"]), None, {}).splitlines() == [
        "speaker  utterances  words         WER % [95 %]  sub  del  ins  CER %",
        "(none)            2      1    0.00 [0.00, 0.00]    0    0    0   0.00",
        "anna              1      2                50.00    1    0    0  33.33",
        "all               3      3  33.33 [0.00, 50.00]    1    0    0  25.00",
        "",
        "loops            0 of 3 utterances (0.00 %)",
        "deletion bursts  0 of 3 utterances (0.00 %)",
        "hallucinations   0 of 1 silent utterance, 0 words",
        "",
        "normaliser plain; 95 % intervals from 10,000 draws of 3 utterances (fewer than 10 speakers, or some unknown)",
    ]
