"""trn files: special characters in transcripts are escaped. tests/cluster compares the counts with sclite's."""

import random

from data_prep.text import normaliser
from decode.scoring.reading import read_pairs
from decode.scoring.trn import identity, trn, words

HOSTILE = [
    "{",
    "}",
    "{ a / b }",
    "@",
    "*",
    "**",
    ";;",
    "a;b",
    "a\\b",
    "(a)",
    "()",
    "a)",
    "=7B",
    "%hesitation",
    "<unk>",
    "-",
]


def test_a_line_is_words_and_an_identity():
    rows = [("anna", "u-1", "Hi, THERE"), ("", "u 2", ""), ("ann-a (1)", "é", "{ x }")]
    assert trn(rows, normaliser("verbatim")).decode().splitlines() == [
        "Hi, THERE (anna-u-1)",
        "(none-u=202)",
        "=7B x =7D (ann=2Da=20=281=29-=C3=A9)",
    ]
    assert trn(rows[:1], normaliser("plain")) == b"hi there (anna-u-1)\n"


def test_different_words_stay_different_and_hold_nothing_hostile():
    draw = random.Random(3)
    texts = {*HOSTILE, *("".join(draw.choices("ab=7{}()/@*;\\%B\x00\x1f", k=4)) for _ in range(3000))}
    written = {words(text) for text in texts}
    assert len(written) == len(texts) and not set("".join(written)) & set("{}()/@*;\\\0\x1f")
    assert len({identity(s, k) for s in ("a", "a-", "=2D", "é") for k in ("b", "-b", "b)", "=29")}) == 16


def test_what_is_written_can_be_read(tmp_path):
    rows = [(f"s{i}", f"u{i}", text) for i, text in enumerate(HOSTILE)]
    (tmp_path / "ref.trn").write_bytes(trn(rows, normaliser("verbatim")))
    read = read_pairs(tmp_path / "ref.trn", tmp_path / "ref.trn")
    assert [(row.key, row.reference) for row in read] == [(f"{s}-{k}", words(text)) for s, k, text in rows]
