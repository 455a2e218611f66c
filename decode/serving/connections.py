"""What the server takes from its connections: how many requests at once, how large and how slow their bodies, from
which web pages, with which token. Checked before a body is read, or while it is."""

import asyncio
import hmac
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = ("localhost", "127.0.0.1", "::1")
STALL_SECONDS = 20.0  # without a byte of an upload
START_SECONDS, LEAST_BYTES_PER_SECOND = 30.0, 8_000  # an upload may take so long, and its size over this


@dataclass(frozen=True)
class Limits:
    """What is accepted."""

    megabytes: float = 25.0  # of a request's body; OpenAI's own limit
    seconds: float = 7200.0  # of a recording
    requests: int = 256  # transcriptions at a time: uploading, waiting or being decoded
    per_client: int = 128  # of those, from one address

    @property
    def bytes(self) -> int:
        return int(self.megabytes * 1_000_000)


class Refusal(Exception):
    """A request that is not served: the status code, one line, and the field that is wrong."""

    def __init__(
        self, status: int, message: str, field: str | None = None, retry_after: int = 0, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.field, self.retry_after, self.code = status, field, retry_after, code


class Places:
    """The requests that are being served."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.clients = limits, Counter[str]()

    @contextmanager
    def place(self, client: str) -> Iterator[None]:
        """A place for one request of this client. Refusal 429 if there is none."""
        if self.clients.total() >= self.limits.requests:
            raise Refusal(
                429, f"{self.limits.requests} requests are being served, the most at a time; try again", None, 2
            )
        if self.clients[client] >= self.limits.per_client:
            many = f"{self.limits.per_client} requests of this address are being served, the most of one"
            raise Refusal(429, f"{many}; wait for their answers", None, 1)
        self.clients[client] += 1
        try:
            yield
        finally:
            self.clients[client] -= 1
            self.clients += Counter()  # without those at 0


def require_token(request: Request, token: str | None) -> None:
    """Refusal 401 unless the request has the server's token, if it has one."""
    if token is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
        raise Refusal(
            401,
            "the token is missing or wrong; send the header `Authorization: Bearer TOKEN`",
            None,
            0,
            "invalid_api_key",
        )


def require_own_page(request: Request, host: str) -> None:
    """Refusal 403 for what another web page makes a browser send here; 421, where only this machine is served, for a
    Host header that names another one (DNS rebinding)."""
    try:
        named = urlsplit(f"//{request.headers.get('host', '')}")
    except ValueError:
        raise Refusal(400, "the Host header names no host") from None
    if is_local(host) and named.hostname not in (*LOCAL, host):
        raise Refusal(421, f"this server is called {host}, not {(named.hostname or '')[:80]!r}")
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != named.netloc:
        raise Refusal(403, "requests from other web pages are not served")


def is_local(host: str) -> bool:
    """Whether only this machine reaches a server on `host`."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class BoundedBody:
    """An ASGI application whose requests' bodies are refused while they come: 413 as soon as they are larger than
    `limits` allows, 408 when they come too slowly."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            receive = _bounded(scope, receive, self.limits.bytes)
        await self.app(scope, receive, send)


def _bounded(scope: Scope, receive: Receive, most: int) -> Receive:
    began, got, whole = asyncio.get_running_loop().time(), 0, False
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    too_large = Refusal(413, f"the request is larger than {most / 1e6:g} MB, the most allowed", "file")

    async def bounded() -> Message:
        nonlocal got, whole
        if whole:  # only the end of the connection is left to come
            return await receive()
        if declared.isdigit() and int(declared) > most:
            raise too_large
        message: Any = None
        left = began + START_SECONDS + got / LEAST_BYTES_PER_SECOND - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(receive(), min(STALL_SECONDS, left))
        except TimeoutError:
            raise Refusal(408, "the upload came too slowly, or stopped") from None
        got += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if got > most:
            raise too_large
        return message

    return bounded
