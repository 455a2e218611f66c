"""What the routes of the server share, and the record of one request in the metrics and the log."""

import sys
import time
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from decode.recordings.transcript import Transcript
from decode.serving.connections import Limits, Places, require_own_page, require_token
from decode.serving.decoder import Decoder, Job
from decode.serving.metrics import Metrics


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

    def require_allowed(self, request: Request) -> None:
        """Refusal 401, 403 or 421."""
        require_own_page(request, self.host)
        require_token(request, self.token)


@dataclass
class Record:
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
