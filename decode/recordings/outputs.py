"""Transcripts as files: txt, json, jsonl, srt, vtt and tsv.

| format | content |
|---|---|
| txt | the text, one line per segment |
| json | `Transcript.to_json`, indented |
| jsonl | the same on one line |
| srt | SubRip captions |
| vtt | WebVTT captions (www.w3.org/TR/webvtt1) |
| tsv | one line per segment: start and end in whole milliseconds, text; with a header, as Whisper writes it |

A caption is a segment or, to be readable, part of one: at most two lines of 42 characters and about seven seconds.
The times of parts are estimated from their numbers of characters."""

import html
import json
import textwrap
from collections.abc import Callable, Iterator

from data_prep.durable import encodable
from decode.recordings.transcript import Transcript
from model.errors import require_known

LINE_CHARACTERS, LINES, CAPTION_SECONDS = 42, 2, 7.0  # of a caption, as in subtitling guidelines
MOST_CHARACTERS = LINE_CHARACTERS * LINES
SLACK_CHARACTERS = 10  # by which a part may exceed the mean: about a word


def as_format(transcript: Transcript, name: str) -> str:
    """The content of a file of the format `name`. UserError for an unknown one."""
    require_known("format", name, FORMATS)
    return encodable(FORMATS[name](transcript))


def one_line(text: str) -> str:
    """The text with line feeds and terminal control codes as spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _txt(transcript: Transcript) -> str:
    return "".join(f"{one_line(segment.text)}\n" for segment in transcript.segments)


def _json(transcript: Transcript) -> str:
    return json.dumps(transcript.to_json(), ensure_ascii=False, indent=1) + "\n"


def _jsonl(transcript: Transcript) -> str:
    return json.dumps(transcript.to_json(), ensure_ascii=False) + "\n"


def _tsv(transcript: Transcript) -> str:
    rows = (f"{_milliseconds(s.start)}\t{_milliseconds(s.end)}\t{one_line(s.text)}\n" for s in transcript.segments)
    return "".join(["start\tend\ttext\n", *rows])


def _srt(transcript: Transcript) -> str:
    cues = enumerate(captions(transcript), 1)
    return "\n".join(
        f"{i}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text.replace('-->', '->')}\n"
        for i, (start, end, text) in cues
    )


def _vtt(transcript: Transcript) -> str:
    cues = [
        f"{_clock(start, '.')} --> {_clock(end, '.')}\n{html.escape(text, quote=False)}\n"
        for start, end, text in captions(transcript)
    ]
    return "\n".join(["WEBVTT\n", *cues])


FORMATS: dict[str, Callable[[Transcript], str]] = {
    **{"txt": _txt, "json": _json, "jsonl": _jsonl},
    **{"srt": _srt, "vtt": _vtt, "tsv": _tsv},
}


def captions(transcript: Transcript) -> Iterator[tuple[int, int, str]]:
    """Yields (start, end, text of one or two lines), in milliseconds, in order and without overlaps."""
    for segment in transcript.segments:
        parts = _parts(one_line(segment.text), segment.end - segment.start)
        total, begin, before = sum(map(len, parts)), _milliseconds(segment.start), 0
        for part in parts:
            before += len(part)
            end = max(begin + 1, _milliseconds(segment.start + (segment.end - segment.start) * before / total))
            lines = textwrap.wrap(part, LINE_CHARACTERS, break_on_hyphens=False)
            if len(lines) > LINES:  # long words
                lines = textwrap.wrap(part, MOST_CHARACTERS * 2 // 3, break_on_hyphens=False)
            yield begin, end, "\n".join(lines)
            begin = end


def _parts(text: str, seconds: float) -> list[str]:
    """The text split into captions of about equal length."""
    count = max(1, -(-len(text) // MOST_CHARACTERS), round(seconds / CAPTION_SECONDS))
    width = min(MOST_CHARACTERS, -(-len(text) // count) + SLACK_CHARACTERS)
    return textwrap.wrap(text, width, break_on_hyphens=False)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _clock(milliseconds: int, point: str) -> str:
    """01:02:03,456"""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{rest:03}"
