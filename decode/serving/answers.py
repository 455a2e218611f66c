"""Transcripts and refusals as OpenAI's interface gives them."""

import json
from typing import Any

from data_prep.durable import encodable
from decode.recordings.outputs import as_format
from decode.recordings.transcript import Segment, Transcript
from decode.serving.connections import Refusal

CONTENT_TYPES = {
    **{"json": "application/json", "verbose_json": "application/json", "text": "text/plain; charset=utf-8"},
    **{"srt": "text/plain; charset=utf-8", "vtt": "text/vtt; charset=utf-8"},
}
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 500: "server_error"}
TYPES |= {503: "server_error"}


def body_of(transcript: Transcript, name: str, language: str = "") -> str:
    """The body of an answer in a response format."""
    if name == "text":
        return encodable(transcript.text + "\n")
    if name in ("srt", "vtt"):
        return as_format(transcript, name)
    return as_json({"text": transcript.text} if name == "json" else verbose(transcript, language))


def verbose(transcript: Transcript, language: str = "") -> dict[str, Any]:
    """OpenAI's verbose_json: times in seconds. `confidence` and `note` (decode/options.py) are ours."""
    return {
        "task": "transcribe",
        "language": language,
        "duration": round(transcript.seconds, 3),
        "text": transcript.text,
        "confidence": round(transcript.confidence, 4),
        "note": transcript.note,
        "segments": [{"id": i, **of_segment(segment)} for i, segment in enumerate(transcript.segments)],
    }


def of_segment(segment: Segment) -> dict[str, Any]:
    return {
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "confidence": round(segment.confidence, 4),
        "note": segment.note,
    }


def error_of(refusal: Refusal) -> dict[str, Any]:
    """The body of a refusal, and of an error event of a stream."""
    kind = TYPES.get(refusal.status, "invalid_request_error")
    error = {"message": str(refusal), "type": kind, "param": refusal.field, "code": refusal.code}
    return {"error": error}


def event(data: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return f"data: {as_json(data)}\n\n".encode()


def as_json(data: Any) -> str:
    return encodable(json.dumps(data, ensure_ascii=False))
