"""The server's routes: OpenAI's audio transcriptions and models, health, metrics, and the page."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from decode.serving.answers import as_json, error_of
from decode.serving.connections import BoundedBody, Refusal
from decode.serving.decoder import first_line
from decode.serving.service import Service
from decode.serving.transcriptions import answer


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
        service.require_allowed(request)
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models(request: Request) -> Any:
        service.require_allowed(request)
        return {"object": "list", "data": [_model(service)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Any:
        service.require_allowed(request)
        if name != service.name:
            raise Refusal(404, f"model {name[:80]!r} is not served here; ask for {service.name!r}", "model")
        return _model(service)

    @app.post("/v1/audio/transcriptions")
    async def transcriptions(request: Request) -> Response:
        return await answer(service, request)

    _add_page(app)
    return app


def _model(service: Service) -> dict[str, Any]:
    return {"id": service.name, "object": "model", "created": int(service.started), "owned_by": "slam-asr"}


def _refusal(refusal: Refusal, headers: dict[str, str] | None = None) -> Response:
    headers = headers or {}
    if refusal.retry_after:
        headers["Retry-After"] = str(refusal.retry_after)
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(as_json(error_of(refusal)), refusal.status, headers, "application/json")


def _add_page(app: FastAPI) -> None:
    from decode.serving.page import page_files

    for path, (kind, content) in page_files().items():
        app.add_route(path, _page_file(kind, content), methods=["GET"])


def _page_file(kind: str, content: bytes) -> Callable[[Request], Awaitable[Response]]:
    from decode.serving.page import HEADERS

    async def file(_: Request) -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return file
