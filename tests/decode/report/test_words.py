"""The marks in alignments, and the counts of confusions; the alignments are jiwer's."""

from decode.report.words import Confusion, align, confusions, marked
from decode.scoring.counts import score


def rows_of(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"key": str(i), "reference": said, "hypothesis": written} for i, (said, written) in enumerate(pairs)]


def test_each_kind_of_error_has_its_own_mark():
    rows = rows_of(("He hopes there would stew", "he hopes their would be a stew."), ("a b", ""), ("", "a b"))
    texts = [str(marked(one)) for one in align(rows, "plain")]
    assert texts == [
        "he hopes <b><del>there</del><ins>their</ins></b> would <ins>be a</ins> stew",
        "<del>a b</del>",
        "<ins>a b</ins>",
    ]


def test_counts_are_those_of_the_scoring():
    rows = rows_of(("a b c d", "a x c e f"), ("one two", "two"), ("", "so"), ("same", "same"))
    aligned = align(rows, "plain")
    whole = score([row["reference"] for row in rows], [row["hypothesis"] for row in rows])
    for name in ("words", "substitutions", "deletions", "insertions", "errors"):
        assert sum(getattr(one, name) for one in aligned) == getattr(whole, name)


def test_a_loop_is_shown_by_its_first_words():
    (one,) = align(rows_of(("we go", "we go" + " on and" * 400)), "plain")
    text = str(marked(one))
    assert text.startswith("we go <ins>on and on and") and "238 more" in text and "<i>\u2026 552 more</i>" in text
    assert len(text) < 200


def test_confusions_are_ordered_by_count_with_the_occurrences_of_the_word():
    rows = rows_of(("the cat the dog", "a cat a dog"), ("the end", "the end uh"), ("the cat", "cat"))
    found = confusions(align(rows, "plain"), most=2)
    assert found.substituted == [Confusion("the", "a", 2, 4)]
    assert found.deleted == [Confusion("the", "", 1, 4)]
    assert found.inserted == [Confusion("", "uh", 1, 0)]
