"""An unfinished decoding on disk: what a later start reuses, and what it refuses."""

import json

import pytest

from decode import resume
from decode.dataset import DecodedBatch, Hypothesis
from model.errors import TransientError, UserError

ABOUT = {"beams": 1, "weights_sha256": "a" * 64, "max_new_tokens": None}
FIRST = DecodedBatch([Hypothesis("a", "the cat", "a cat", "cut", 0.1234), Hypothesis("b", "", "née\n")], 0.5, 3.25)
SECOND = DecodedBatch([Hypothesis("c", "mat", "")], 0.25, 1.0)


def test_kept_batches_are_found_again_except_lines_cut_off(tmp_path):
    assert resume.begin(tmp_path, ABOUT) == []
    resume.keep(tmp_path, 1, FIRST)
    with open(tmp_path / "rank-00001.jsonl", "ab") as file:
        file.write(b'{"rows":[{"key":"c","refer')  # killed
    resume.keep(tmp_path, 1, SECOND)
    resume.keep(tmp_path, 0, SECOND)
    assert resume.begin(tmp_path, ABOUT) == [SECOND, FIRST, SECOND]
    resume.remove(tmp_path)
    assert not tmp_path.exists()
    resume.remove(tmp_path)


def test_another_decoding_is_refused_naming_the_difference_or_overwritten(tmp_path):
    resume.begin(tmp_path, ABOUT)
    assert resume.begin(tmp_path, ABOUT | {"beams": 4}) == [], "nothing was decoded yet"
    resume.keep(tmp_path, 0, FIRST)
    with pytest.raises(UserError) as refused:
        resume.begin(tmp_path, ABOUT | {"weights_sha256": "b" * 64})
    assert str(refused.value) == (
        f"{tmp_path} holds another, unfinished decoding (beams 4, not 1, weights_sha256 'aaaaaaaaaaaa', not "
        "'bbbbbbbbbbbb'); give another --out, or --overwrite to start again"
    )
    assert resume.begin(tmp_path, ABOUT | {"beams": 4}, overwrite=True) == [FIRST], "the same is continued"
    assert resume.begin(tmp_path, ABOUT, overwrite=True) == [] and not list(tmp_path.glob("*.jsonl"))
    assert json.loads((tmp_path / resume.ABOUT).read_text()) == ABOUT


@pytest.mark.parametrize("about", [None, b"[1]", b"{"])
def test_batches_of_an_unknown_decoding_are_refused(tmp_path, about):
    resume.keep(tmp_path, 0, FIRST)
    if about is not None:
        (tmp_path / resume.ABOUT).write_bytes(about)
    with pytest.raises(UserError, match=r"about\.json cannot be read"):
        resume.begin(tmp_path, ABOUT)


def test_records_that_are_no_batches_are_decoded_again(tmp_path):
    resume.begin(tmp_path, ABOUT)
    for record in ({"rows": [{"key": "a"}]}, {"rows": 1, "seconds": 0, "audio_seconds": 0}, {}, {"rows": [], "x": 1}):
        with open(tmp_path / "rank-00000.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")
    assert resume.begin(tmp_path, ABOUT) == []


def test_a_full_disk_is_one_line(tmp_path):
    (tmp_path / "rank-00002.jsonl").symlink_to("/dev/full")
    with pytest.raises(TransientError, match=r"rank-00002.jsonl: No space left .*; make room, then run the command"):
        resume.keep(tmp_path, 2, FIRST)
