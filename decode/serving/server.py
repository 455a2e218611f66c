"""Runs the application under uvicorn, from the listening socket to the last answer."""

import asyncio
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from decode.serving.application import make_application
from decode.serving.service import Service
from model.errors import UserError

HEADER_SECONDS = 15.0  # a connection may be open so long without a whole request's headers, or reading nothing
BACKLOG = 1024  # connections that the kernel accepts ahead


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP protocol, which closes connections that send no whole request's headers in HEADER_SECONDS, as the
    library's own limit holds between requests only, and those that read nothing of what is sent to them, for which the
    library would wait, at its end too."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._was_idle, self._unsent = False, 0
        self._look = self.loop.call_later(HEADER_SECONDS, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        self._look.cancel()
        super().connection_lost(exc)

    def _close_if_idle(self) -> None:
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        if self._unsent >= before > 0:
            self.transport.abort()  # `close` would wait until it is read
            return
        idle = self.cycle is None or self.cycle.response_complete
        if idle and (self._was_idle or self.cycle is None):
            self.transport.close()
        self._was_idle = idle
        self._look = self.loop.call_later(HEADER_SECONDS, self._close_if_idle)


class Server(uvicorn.Server):
    """uvicorn's server, which ends with what it has accepted at the first SIGTERM or SIGINT, and at once at the second;
    and which says that it ended well."""

    def __init__(self, service: Service) -> None:
        config = uvicorn.Config(
            make_application(service),
            http=PatientProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_level="warning",
            access_log=False,
            backlog=BACKLOG,
            server_header=False,
            proxy_headers=False,  # or a client names itself, in the log and to the limits
            h11_max_incomplete_event_size=32_768,
        )
        super().__init__(config)
        self.service = service

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        caught = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self.handle_exit) for number in caught}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        name, active = signal.Signals(sig).name, self.service.places.clients.total()
        if self.should_exit:
            print(f"serve: {name}: ended; requests that were not answered: {active}", file=sys.stderr, flush=True)
            os._exit(1)  # nothing is left behind: uploads have no names, and a batch may take long to end
        self.should_exit = self.service.draining = True
        print(f"serve: {name}: stopping; requests left to answer: {active}", file=sys.stderr, flush=True)


def bind(host: str, port: int) -> socket.socket:
    """A socket for `listen`; port 0 takes any that is free. UserError if the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise _unavailable(host, port, error) from None
    except OverflowError:
        listening.close()
        raise UserError(f"--port {port} is not a port; give a number from 0 to 65535") from None
    return listening


def listen(listening: socket.socket) -> None:
    """From here on connections wait to be served. UserError if another process has begun to listen there."""
    try:
        listening.listen(BACKLOG)
    except OSError as error:
        host, port, *_ = listening.getsockname()
        raise _unavailable(host, port, error) from None


def _unavailable(host: str, port: int, error: OSError) -> UserError:
    why = error.strerror or str(error)
    return UserError(f"cannot listen on {host}, port {port}: {why}; give another --host or --port")


def serve(service: Service, listening: socket.socket) -> int:
    """Serves until SIGTERM or SIGINT, and answers all that was accepted; 0, or 1 if the decoder has stopped."""
    allow_connections()
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it logs every malformed body; so do we
    server = Server(service)
    service.decoder.on_death = lambda: setattr(server, "should_exit", True)
    asyncio.run(server.serve([listening]))
    if service.decoder.error is not None:
        print(f"serve: the decoder has stopped: {service.decoder.error!r}", file=sys.stderr)
        return 1
    service.decoder.close()
    print("serve: stopped; everything accepted was answered", file=sys.stderr)
    return 0


def allow_connections() -> None:
    """Raises the limit on open files, one a connection, as far as this user may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
