"""A small server of the page and its API, with the stand-ins' recogniser: no queue, no limits, one model."""

import email
import email.policy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import slam_asr
from decode.recordings.outputs import as_format
from decode.serving.page import HEADERS, page_files
from model.errors import UserError
from tests.ranks import ROOT

recogniser = cache(lambda: slam_asr.load(ROOT / "model" / "stand_in" / "adapter", device="cpu"))


@contextmanager
def serving(token: str | None = None) -> Iterator[str]:
    """The address of a server on this machine, as long as it runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"token": token}))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    token: str | None

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        kind, content = page_files().get(self.path, ("", b""))
        if kind:
            self.answer(200, content, kind, HEADERS)
        elif self.path == "/v1/models" and self.is_allowed():
            self.answer(200, {"object": "list", "data": [{"id": "stand-in", "object": "model"}]})

    def do_POST(self) -> None:
        try:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.is_allowed():
                self.transcribe(self.headers["Content-Type"].encode(), body)
        except OSError:
            pass  # cancelled

    def transcribe(self, kind: bytes, body: bytes) -> None:
        form = email.message_from_bytes(b"Content-Type: " + kind + b"\r\n\r\n" + body, policy=email.policy.HTTP)
        fields: dict[str, Any] = {
            str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)
            for part in form.iter_parts()
        }
        try:
            transcript = recogniser().transcribe(fields["file"])
        except UserError as error:
            return self.refuse(415, str(error))
        wanted = fields["response_format"].decode()
        if wanted in ("srt", "vtt"):
            return self.answer(200, as_format(transcript, wanted).encode(), "text/plain; charset=utf-8")
        segments = [{"start": s.start, "end": s.end, "text": s.text} for s in transcript.segments]
        deltas = [{"type": "transcript.text.delta", "delta": f"{word} "} for word in transcript.text.split()]
        done = {"type": "transcript.text.done", "text": transcript.text, "segments": segments}
        events = [*deltas, done | {"duration": transcript.seconds}]
        stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        self.answer(200, stream.encode(), "text/event-stream")

    def is_allowed(self) -> bool:
        allowed = self.token is None or self.headers["Authorization"] == f"Bearer {self.token}"
        if not allowed:
            self.refuse(401, "no token, or a wrong one")
        return allowed

    def refuse(self, status: int, message: str) -> None:
        self.answer(status, {"error": {"message": message, "type": "", "param": None, "code": None}})

    def answer(self, status: int, body: Any, kind: str = "application/json", headers: Any = ()) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
