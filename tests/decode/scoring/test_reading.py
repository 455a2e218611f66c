"""Files of texts: three formats, one set of rules about keys."""

import json

import pytest

from decode.scoring.reading import Row, read_pairs, read_scoring
from model.errors import UserError


@pytest.fixture
def write(tmp_path):
    def written(name: str, *lines: str):
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        return path

    return written


JSONL = [
    json.dumps({"key": "s1-a", "text": "One.", "duration": 2.5, "meta": {"room": "hall"}, "speaker": "s1"}),
    json.dumps({"key": "s2-b", "reference": "zwei drei", "text": "not this", "seconds": 1}),
]


@pytest.mark.parametrize("name", ["ref.jsonl", "ref"])
def test_json_lines(write, name):
    hyp = write(
        "h", '{"key": "s2-b", "pred_text": "zwei", "text": "no"}', '{"key": "s1-a", "text": "one", "note": "cut"}'
    )
    one, two = read_pairs(write(name, *JSONL), hyp)
    assert one == Row("s1-a", "One.", "one", "cut", None, 2.5, {"room": "hall", "speaker": "s1"})
    assert two == Row("s2-b", "zwei drei", "zwei", seconds=1.0)


@pytest.mark.parametrize("suffix", [".trn", ""])
def test_trn_and_kaldi(write, suffix):
    ref = write(
        f"r{suffix}", "one (two) (s1-a)" if not suffix else ";; comment", *["(s1-a)", "x y (s2_b)"][not suffix :]
    )
    hyp = write("text", "s2_b x", "s1-a one (two)")
    rows = read_pairs(ref, hyp)
    assert [row.hypothesis for row in rows] == ["one (two)", "x"]
    assert [row.fields["speaker"] for row in rows] == ["s1", "s2"]
    assert [row.reference for row in read_pairs(hyp, hyp)] == ["x", "one (two)"]


@pytest.mark.parametrize(
    ("ref", "hyp", "message"),
    [
        (("r", "a x", "b y"), ("h", "a x"), "1 utterance of {ref} missing in {hyp}: b; give files of the same data"),
        (("r", "a x"), ("h", "a x", "b y"), "1 utterance of {hyp} missing in {ref}: b; give files of the same data"),
        (("r", "a x", "a y"), ("h", "a x"), "{ref}:2: a is there twice, first at {ref}:1; remove one"),
        (("r", "x (a)", "y (a)"), ("h", "a x"), "{ref}:2: key 'a' occurs twice; give one line per utterance"),
        (("r", "x (a)", "y"), ("h", "a x"), "{ref}:2: 'y' does not end in (ID), as a line of a trn file does"),
        (("r", "{ x / y } (a)"), ("h", "a x"), "{ref}:1: alternatives {{ a / b }} are not supported"),
        (("r.jsonl", "a x"), ("h", "a x"), "{ref}:1: Expecting value"),
        (("r", '{"key": "a", "text": 1}'), ("h", "a x"), '{ref}:1: a line needs "key" and "reference" (or "text")'),
        (("r", '{"key": 3, "text": "a"}'), ("h", "a x"), '{ref}:1: a line needs "key" and "reference" (or "text")'),
        (("r", '{"key": "a", "text": "\\ud800"}'), ("h", "a x"), "{ref}:1: "),
        (("r",), ("h",), "{ref} holds no utterances; there is nothing to score"),
    ],
)
def test_files_that_do_not_match_are_a_one_line_error(write, ref, hyp, message):
    ref, hyp = write(*ref), write(*hyp)
    with pytest.raises(UserError) as error:
        read_pairs(ref, hyp)
    assert str(error.value).startswith(message.format(ref=ref, hyp=hyp)) and "\n" not in str(error.value)


def test_a_folder_without_a_scoring_is_refused(tmp_path, write):
    with pytest.raises(UserError, match="holds no scoring"):
        read_scoring(tmp_path)
    write("score.json", "[]")
    with pytest.raises(UserError, match=r"is no score.json: it is not a JSON object; score again"):
        read_scoring(tmp_path)
    write("score.json", "{}")
    with pytest.raises(UserError, match=r"cannot read .*results.jsonl"):
        read_scoring(tmp_path)
