"""Tables of plain text."""

from data_prep.figures import table


def test_numbers_are_aligned_right_names_left_and_nothing_is_cut():
    rows = [("a", 1, 2.5), ("[bold]bbb", 1000, "x" * 300)]
    assert table(rows, ("name", "count", "value")) == [
        f"name       count{' ' * 297}value",
        f"a              1{' ' * 299}2.5",
        f"[bold]bbb   1000  {'x' * 300}",
    ]
    assert table([(1, "a"), (100, "b")], left=(1,)) == ["  1  a", "100  b"]
    assert table([]) == []
