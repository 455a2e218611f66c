"""Two systems on the same utterances: which is right where, and remarks on what limits the comparison."""

from decode.report.compare import compare
from decode.report.words import align

SAID = ["one two three", "four five six", "seven eight", "nine ten", "eleven"]
OURS = ["one two three", "four five six", "seven", "nine", "eleven"]
THEIRS = ["one two three", "for fife six", "seven eight", "night tent", "a b eleven"]


def rows_of(texts: list[str]) -> list[dict[str, str]]:
    pairs = enumerate(zip(SAID, texts, strict=True))
    return [{"key": f"u{i}", "reference": said, "hypothesis": text} for i, (said, text) in pairs]


def compared(ours, theirs, score, other):
    return compare(align(ours, "plain"), {"normaliser": "plain", **score}, theirs, {"normaliser": "plain", **other})


def test_which_system_is_right_where():
    against = {"p": 0.03, "test": "sign flips", "interval": [-0.5, -0.1], "normalisers": {}}
    score, other = {"all": {"wer": 0.2}, "against": against}, {"all": {"wer": 0.5, "interval": [0.4, 0.6]}}
    found = compared(rows_of(OURS), rows_of(THEIRS), score, other)
    assert (found.a_wer, found.b_wer, found.difference, found.relative) == (
        "20.00",
        "50.00",
        "\u221230.00",
        "\u221260.00",
    )
    assert (found.b_interval, found.difference_interval) == ("40.00 to 60.00", "\u221250.00 to \u221210.00")
    assert found.significance == [("p", "0.03"), ("test", "sign flips")]
    assert found.right == [[1, 2], [1, 1]]
    kinds = {kind.title: [pair.a.row["key"] for pair in kind.pairs] for kind in found.kinds}
    assert kinds == {"A right, B wrong": ["u1", "u4"], "B right, A wrong": ["u2"], "both wrong, A better": ["u3"]}
    assert not found.remarks


def test_limits_of_the_comparison_are_stated():
    theirs = [row | {"reference": "else"} for row in rows_of(THEIRS)[1:]]
    remarks = compared(rows_of(OURS), theirs, {}, {"normaliser": "verbatim"}).remarks
    assert [remark.split(";")[0] for remark in remarks] == [
        "utterances only in A: 1, only in B: 0",
        "4 references differ (100.0 %)",
        "B was scored with the normaliser verbatim",
    ]
