"""The transcript of a recording, and its segments. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decode.options import Alternative

SILENCE = "silence"  # note of a recording without speech


@dataclass(frozen=True)
class Segment:
    """The text of one window of a recording, at most `longest` seconds."""

    start: float  # of its first active frame, seconds from the start of the recording
    end: float
    text: str
    confidence: float  # geometric mean of the tokens' probabilities, 0 to 1
    note: str = ""  # as in Answer: "cut", "loop", "echo", "refusal"; empty if nothing is wrong
    alternatives: tuple[Alternative, ...] = ()  # the n-best list, best first, if nbest > 1


@dataclass(frozen=True)
class Transcript:
    """The transcript of a recording."""

    path: str  # as given; empty for bytes and arrays
    seconds: float = 0.0  # of the recording
    segments: tuple[Segment, ...] = ()  # in order, without overlaps
    confidence: float = 0.0  # geometric mean over the tokens of all segments, 0 to 1; 0 if there are none
    silent_seconds: float = 0.0  # that were not decoded
    error: str = ""  # why it could not be transcribed, one line; only from `transcribe_each`

    @property
    def text(self) -> str:
        """The segments' texts, with single spaces between them."""
        return " ".join(segment.text for segment in self.segments if segment.text)

    @property
    def note(self) -> str:
        """The different notes of the segments, separated by spaces; "silence" if nothing was decoded."""
        if not self.segments and not self.error:
            return SILENCE
        return " ".join(sorted({segment.note for segment in self.segments if segment.note}))

    def to_json(self) -> dict[str, Any]:
        """A JSON object: path, text, seconds, silent_seconds, note, confidence and segments, times rounded to
        milliseconds. N-best lists are in the segments."""
        return {
            "path": self.path,
            "text": self.text,
            "seconds": round(self.seconds, 3),
            "silent_seconds": round(self.silent_seconds, 3),
            "note": self.note,
            "confidence": round(self.confidence, 4),
            "segments": [_segment(segment) for segment in self.segments],
        }


def _segment(segment: Segment) -> dict[str, Any]:
    best = [{"text": text, "score": round(score, 4)} for text, score in segment.alternatives]
    return {
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "note": segment.note,
        "confidence": round(segment.confidence, 4),
        **({"alternatives": best} if best else {}),
    }
