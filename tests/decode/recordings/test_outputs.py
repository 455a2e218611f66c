"""Transcript files, read back by independent parsers of the formats."""

import json
import re

import pytest

from decode.options import Alternative
from decode.recordings.outputs import FORMATS, as_format
from decode.recordings.transcript import Segment, Transcript
from model.errors import UserError

LONG = " ".join(f"word{i}," for i in range(60))
TRANSCRIPT = Transcript(
    "talks/a.wav",
    7503.25,
    (
        Segment(0.416, 3.104, "Good morning.", 0.9),
        Segment(3.5, 31.25, LONG, 0.5, "cut", (Alternative(LONG, -1.25), Alternative("or so", -2.0))),
        Segment(40.0, 41.0, "", 0.1, "refusal"),
        Segment(3725.0, 3726.9996, "a < b & c --> d\n\n2\n\x1b[31m\u2028end", 0.7),
        Segment(7500.0, 7503.0, "\u4f60\u597d" * 60, 0.7),
    ),
    0.6,
    12.5,
)
CLOCK = r"(\d\d):([0-5]\d):([0-5]\d)[.,](\d{3})"


def milliseconds(hours: str, minutes: str, seconds: str, rest: str) -> int:
    return ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * 1000 + int(rest)


def cues(text: str, point: str, numbered: bool) -> list[tuple[int, int, list[str]]]:
    """The cues of captions, separated by blank lines alone, as players read them."""
    found = []
    for number, block in enumerate(text.removesuffix("\n").split("\n\n"), 1):
        lines = block.split("\n")
        if numbered:
            assert lines.pop(0) == str(number)
        times = re.fullmatch(f"{CLOCK} --> {CLOCK}", lines[0])
        assert times and lines[0].count(point) == 2 and lines[1:] and all(line.strip() for line in lines[1:])
        found.append((milliseconds(*times.groups()[:4]), milliseconds(*times.groups()[4:]), lines[1:]))
    return found


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_captions_are_valid_in_order_and_short_enough_to_read(kind):
    text = as_format(TRANSCRIPT, kind)
    if kind == "vtt":
        assert text.startswith("WEBVTT\n\n") and text.count("-->") == len(cues(text[8:], ".", False))
        text = text.removeprefix("WEBVTT\n\n")
    found = cues(text, ",."[kind == "vtt"], kind == "srt")
    assert found[0] == (416, 3104, ["Good morning."]) and found[-1][1] <= 7_503_250
    times = [time for start, end, _ in found for time in (start, end)]
    assert times == sorted(times) and all(0 < end - start <= 10_000 for start, end, _ in found)
    assert all(len(lines) <= 2 and max(map(len, lines)) <= 56 for _, _, lines in found)
    words = " ".join(line for start, _, lines in found for line in lines if 3500 <= start < 31_250)
    assert words == LONG, "every word once"
    assert "".join(line for start, _, lines in found for line in lines if start >= 7_500_000) == "\u4f60\u597d" * 60
    [escaped] = [" ".join(lines) for start, _, lines in found if start == 3_725_000]
    assert escaped == ("a &lt; b &amp; c --&gt; d 2 [31m end" if kind == "vtt" else "a < b & c -> d 2 [31m end")


def test_text_and_tables_have_one_line_per_segment():
    assert as_format(TRANSCRIPT, "txt").split("\n")[:2] == ["Good morning.", LONG]
    rows = [line.split("\t") for line in as_format(TRANSCRIPT, "tsv").splitlines()]
    assert rows[:2] == [["start", "end", "text"], ["416", "3104", "Good morning."]]
    assert {len(row) for row in rows} == {3} and len(rows) == 6 and rows[4][0] == "3725000"


def test_json_has_all_fields():
    row = json.loads(as_format(TRANSCRIPT, "json"))
    assert row == json.loads(as_format(TRANSCRIPT, "jsonl")) and as_format(TRANSCRIPT, "jsonl").count("\n") == 1
    assert (row["path"], row["seconds"], row["silent_seconds"]) == ("talks/a.wav", 7503.25, 12.5)
    assert row["note"] == "cut refusal" and row["confidence"] == 0.6 and row["text"].startswith("Good morning. word0,")
    assert row["segments"][0] == {"start": 0.416, "end": 3.104, "text": "Good morning.", "note": "", "confidence": 0.9}
    assert row["segments"][1]["alternatives"][1] == {"text": "or so", "score": -2.0}


def test_a_recording_without_speech_gives_files_without_text():
    silent = Transcript("a.wav", 60.0, silent_seconds=60.0)
    empty = {"txt": "", "srt": "", "vtt": "WEBVTT\n", "tsv": "start\tend\ttext\n"}
    assert {kind: as_format(silent, kind) for kind in empty} == empty
    assert json.loads(as_format(silent, "json"))["note"] == "silence"


def test_half_a_character_is_written_as_an_escape_and_an_unknown_format_is_refused():
    half = Transcript("a\udcff.wav", 1.0, (Segment(0, 1, "x\ud800y", 1.0),))
    assert all(as_format(half, kind).encode() for kind in FORMATS)
    with pytest.raises(UserError, match="format 'str' is not known, did you mean 'srt'"):
        as_format(half, "str")
