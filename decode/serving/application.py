"""The server's routes: OpenAI's audio transcriptions and models, health, metrics, and the page."""

import asyncio
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from data_prep.audio.decode import AudioError, probe
from decode.recordings.transcript import Segment, Transcript
from decode.serving.answers import CONTENT_TYPES, as_json, body_of, error_of, event, of_segment, verbose
from decode.serving.connections import BoundedBody, Limits, Places, Refusal, require_own_page, require_token
from decode.serving.decoder import Decoder, DecodingError, Job, first_line
from decode.serving.metrics import Metrics
from decode.serving.requests import Asked, Upload, read_request

GONE = 499  # as nginx counts requests whose client went away
SAMPLES_PER_SECOND = 96_000  # 48 kHz stereo; a recording may have so many times the seconds allowed
LOOK_SECONDS = 0.5  # between looks whether the client has gone away


@dataclass
class Service:
    """What the routes share."""

    decoder: Decoder
    metrics: Metrics
    name: str  # of the model, for clients
    limits: Limits = field(default_factory=Limits)
    host: str = "127.0.0.1"
    token: str | None = None
    log: Any = field(default=sys.stderr)  # a text file; None for none
    started: float = field(default_factory=time.time)
    draining: bool = False

    def __post_init__(self) -> None:
        self.places = Places(self.limits)


def make_application(service: Service) -> FastAPI:
    """The ASGI application."""
    app = FastAPI(title="slam-asr", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(BoundedBody, limits=service.limits)

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        return _refusal(refusal)

    @app.exception_handler(HTTPException)
    async def refused_by_starlette(_: Request, error: HTTPException) -> Response:
        there = "see /v1/models and /v1/audio/transcriptions"
        what = {404: f"there is no such address; {there}", 405: "wrong method; recordings are sent by POST"}
        message = what.get(error.status_code, first_line(Exception(error.detail)) or "refused")
        return _refusal(Refusal(error.status_code, message), dict(error.headers or {}))

    @app.get("/health")
    async def health() -> Response:
        state = "draining" if service.draining else "ok" if service.decoder.alive else "the decoder has stopped"
        return JSONResponse({"status": state}, 200 if state == "ok" else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        _require_allowed(service, request)
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models(request: Request) -> Any:
        _require_allowed(service, request)
        return {"object": "list", "data": [_model(service)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Any:
        _require_allowed(service, request)
        if name != service.name:
            raise Refusal(404, f"model {name[:80]!r} is not served here; ask for {service.name!r}", "model")
        return _model(service)

    @app.post("/v1/audio/transcriptions")
    async def transcriptions(request: Request) -> Response:
        return await _transcriptions(service, request)

    _add_page(app)
    return app


async def _transcriptions(service: Service, request: Request) -> Response:
    """Answers, counts and logs one request."""
    began = time.monotonic()
    client = request.client.host if request.client else "?"
    ending = ExitStack()
    record = _Record(service, client, began)
    try:
        _require_allowed(service, request)
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


async def _transcribed(service: Service, asked: Asked, request: Request, record: "_Record") -> Transcript:
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


async def _streamed(service: Service, asked: Asked, ending: ExitStack, record: "_Record") -> AsyncIterator[bytes]:
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


def _require_allowed(service: Service, request: Request) -> None:
    require_own_page(request, service.host)
    require_token(request, service.token)


def _model(service: Service) -> dict[str, Any]:
    return {"id": service.name, "object": "model", "created": int(service.started), "owned_by": "slam-asr"}


def _refusal(refusal: Refusal, headers: dict[str, str] | None = None) -> Response:
    headers = headers or {}
    if refusal.retry_after:
        headers["Retry-After"] = str(refusal.retry_after)
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(as_json(error_of(refusal)), refusal.status, headers, "application/json")


class _Events(StreamingResponse):
    """Server-sent events; however it ends, even before the first, the request's place and upload are given back."""

    def __init__(self, events: AsyncIterator[bytes], ending: ExitStack, record: "_Record") -> None:
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


@dataclass
class _Record:
    """One request in the metrics and the log."""

    service: Service
    client: str
    began: float
    job: Job | None = None
    is_done: bool = False

    def done(self, code: int, transcript: Transcript | None, why: str = "") -> None:
        """Counts and logs the request; only the first call does."""
        if self.is_done:
            return
        self.is_done = True
        now, metrics, job = time.monotonic(), self.service.metrics, self.job
        metrics.requests.labels(str(code)).inc()
        metrics.seconds.observe(now - self.began)
        words = [f"{code}", f"{now - self.began:.2f} s"]
        if job is not None and job.started is not None:
            metrics.queued.observe(job.started - job.accepted)
            words.append(f"of which {job.started - job.accepted:.2f} s in the queue")
        if transcript is not None:
            words.append(f"{transcript.seconds:.1f} s of audio")
        line = ", ".join([*words, self.client, *([why] if why else [])])
        if self.service.log is not None:
            print(f"serve: {line}", file=self.service.log, flush=True)


def _add_page(app: FastAPI) -> None:
    from decode.serving.page import page_files

    for path, (kind, content) in page_files().items():
        app.add_route(path, _page_file(kind, content), methods=["GET"])


def _page_file(kind: str, content: bytes) -> Callable[[Request], Awaitable[Response]]:
    from decode.serving.page import HEADERS

    async def answer(_: Request) -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return answer
