"""Answers one request for a transcript, at once or as a stream of events."""

import asyncio
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from data_prep.audio.decode import AudioError, probe
from decode.recordings.transcript import Segment, Transcript
from decode.serving.answers import CONTENT_TYPES, body_of, error_of, event, of_segment, verbose
from decode.serving.connections import Limits, Refusal
from decode.serving.decoder import DecodingError, Job, first_line
from decode.serving.requests import Asked, Upload, read_request
from decode.serving.service import Record, Service

GONE = 499  # as nginx counts requests whose client went away
SAMPLES_PER_SECOND = 96_000  # 48 kHz stereo; a recording may have so many times the seconds allowed
LOOK_SECONDS = 0.5  # between looks whether the client has gone away


async def answer(service: Service, request: Request) -> Response:
    """Answers, counts and logs one request."""
    began = time.monotonic()
    client = request.client.host if request.client else "?"
    ending = ExitStack()
    record = Record(service, client, began)
    try:
        service.require_allowed(request)
        if service.draining:
            raise Refusal(503, "the server is shutting down; try again", None, 5)
        ending.enter_context(service.places.place(client))
        service.metrics.active.inc()
        ending.callback(service.metrics.active.dec)
        asked = await read_request(request, service.name)
        ending.callback(asked.upload.close)
        await asyncio.to_thread(_require_recording, asked.upload, service.limits)
        if asked.stream:
            return _Events(_streamed(service, asked, ending, record), ending, record)
        with ending:
            transcript = await _transcribed(service, asked, request, record)
            record.done(200, transcript)
            content = body_of(transcript, asked.format, asked.language)
            return Response(content, media_type=CONTENT_TYPES[asked.format])
    except Refusal as refusal:
        ending.close()
        record.done(refusal.status, None, str(refusal))
        raise
    except (_Gone, ClientDisconnect):
        ending.close()
        record.done(GONE, None, "the client has gone")
        return Response(status_code=GONE)
    except BaseException as error:
        ending.close()
        status = error.status_code if isinstance(error, HTTPException) else 500
        record.done(status, None, f"{type(error).__name__}: {first_line(error)}")
        if isinstance(error, HTTPException) or not isinstance(error, Exception):
            raise
        traceback.print_exception(error, file=service.log)
        raise Refusal(500, "the server failed; its log says how") from None


async def _transcribed(service: Service, asked: Asked, request: Request, record: "Record") -> Transcript:
    """The transcript. Refusal for a recording that cannot be transcribed; CancelledError where nobody waits for it."""
    end = asyncio.get_running_loop().create_future()
    job = _submit(service, asked.upload, lambda segment: None, end)
    record.job = job
    try:
        while not end.done():
            await asyncio.wait([end], timeout=LOOK_SECONDS)
            if not end.done() and await request.is_disconnected():
                raise _Gone
    finally:
        service.decoder.cancel(job)
    return _transcript_of(end.result())


async def _streamed(service: Service, asked: Asked, ending: ExitStack, record: "Record") -> AsyncIterator[bytes]:
    """The events of a streamed answer; ends the request when it is done, or its client has gone."""
    loop, segments = asyncio.get_running_loop(), asyncio.Queue[Segment | None]()
    end = loop.create_future()
    end.add_done_callback(lambda _: segments.put_nowait(None))
    with ending:
        job = _submit(service, asked.upload, lambda s: loop.call_soon_threadsafe(segments.put_nowait, s), end)
        record.job = job
        try:
            said, number = False, 0
            while (segment := await segments.get()) is not None:
                if asked.format == "verbose_json":
                    yield event({"type": "transcript.text.segment", "id": number, **of_segment(segment)})
                if segment.text:
                    yield event({"type": "transcript.text.delta", "delta": " " * said + segment.text})
                    said = True
                number += 1
            transcript = _transcript_of(end.result())
            whole = verbose(transcript, asked.language) if asked.format == "verbose_json" else {}
            record.done(200, transcript)
            yield event({"type": "transcript.text.done", **whole, "text": transcript.text})
        except Refusal as refusal:
            record.done(refusal.status, None, str(refusal))
            yield event({"error": {**error_of(refusal)["error"], "status": refusal.status}})
        finally:
            service.decoder.cancel(job)
            record.done(GONE, None, "the client has gone")


def _submit(service: Service, upload: Upload, on_segment: Any, end: asyncio.Future[Any]) -> Job:
    loop = asyncio.get_running_loop()

    def set_end(result: Transcript | Exception) -> None:
        loop.call_soon_threadsafe(lambda: None if end.done() else end.set_result(result))

    if not service.decoder.alive:
        raise Refusal(503, "the decoder has stopped; the server must be started again")
    return service.decoder.submit(upload, on_segment, set_end)


def _transcript_of(result: Transcript | Exception) -> Transcript:
    if isinstance(result, Transcript):
        return result
    if isinstance(result, DecodingError):
        raise Refusal(500, str(result))
    if isinstance(result, AudioError):
        raise _unusable(result)
    raise Refusal(500, f"the recording could not be read: {first_line(result)}")


def _require_recording(upload: Upload, limits: Limits) -> None:
    """Refusal for what is no recording, or one that says that it is too long; reads its header alone."""
    try:
        info = probe(upload)
    except AudioError as error:
        raise _unusable(error) from None
    seconds, samples = info.seconds, info.frames * info.channels
    if seconds > limits.seconds:
        too_long = f"the recording has {seconds:,.0f} s, more than {limits.seconds:g} s, the most allowed"
        raise Refusal(422, too_long, "file")
    if samples > limits.seconds * SAMPLES_PER_SECOND:
        kind = f"{seconds:,.0f} s of {info.rate:,} Hz and {info.channels} channels"
        raise Refusal(422, f"{kind} are more samples than allowed; send it as 16 kHz mono", "file")


def _unusable(error: AudioError) -> Refusal:
    """400 for what cannot be decoded, 422 for what can and is not fit to be transcribed."""
    fit = error.reason not in ("too-long", "too-short", "bad-rate", "bad-channels", "bad-scale", "nan", "silent")
    return Refusal(400 if fit else 422, first_line(error), "file")


class _Events(StreamingResponse):
    """Server-sent events; however it ends, even before the first, the request's place and upload are given back."""

    def __init__(self, events: AsyncIterator[bytes], ending: ExitStack, record: Record) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self.ending, self.record = ending, record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.ending.close()
            self.record.done(GONE, None, "the client has gone")


class _Gone(Exception):
    """The client has closed its connection."""
