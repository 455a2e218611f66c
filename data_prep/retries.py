"""What of remote storage is tried again, how often and how long; what a person is told where that does not help.

The backends (s3fs, gcsfs, aiohttp) are optional, and each retries by rules of its own, or calls a server's "503" a
missing file. Theirs are switched off (objects.py); this is the one place that decides.
"""

from __future__ import annotations

import errno
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from data_prep.addresses import without_secrets
from data_prep.figures import counted
from model.errors import UserError

Result = TypeVar("Result")

ATTEMPTS = 8
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 15.0  # each pause is twice the one before, give or take a half
PATIENCE_SECONDS = 90.0  # after which no attempt starts
MAY_PASS_STATUS = (408, 425, 429)  # and all from 500 on: time-out, too early, too many requests
MAY_PASS_ERRNO = {errno.EBUSY, errno.EREMOTEIO, errno.EIO, errno.EAGAIN, errno.EPIPE, errno.ENETUNREACH}
MAY_PASS_ERRNO |= {errno.EHOSTUNREACH, errno.ECONNRESET, errno.ETIMEDOUT}
# By name, as their packages may be absent: botocore's, aiohttp's, http.client's.
MAY_PASS_NAMES = {"HTTPClientError", "ClientConnectionError", "ClientPayloadError", "ResponseParserError"}
MAY_PASS_NAMES |= {"EndpointConnectionError", "FlexibleChecksumError", "IncompleteRead", "IncompleteReadError"}
NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "RefreshError"}
BACKENDS = ("botocore", "aiobotocore", "aiohttp", "yarl", "s3fs", "gcsfs", "google", "fsspec")


class RemoteError(UserError):
    """Storage that cannot be used; the message is one line and names the address without what is secret in it."""


class Missing(FileNotFoundError, RemoteError):
    """There is nothing at the address."""

    def __str__(self) -> str:
        return str(self.args[-1])


class Forbidden(PermissionError, RemoteError):
    """The storage does not let these credentials do it."""

    def __str__(self) -> str:
        return str(self.args[-1])


class _Retries:
    """Counts, for all threads of the process."""

    def __init__(self) -> None:
        self.taken = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self.taken += count


_retries = _Retries()


def retries() -> int:
    """How often this process, or a worker of it whose task is done, had to try something again."""
    return _retries.taken


def count_retries(count: int) -> None:
    """Adds those of another process."""
    _retries.add(count)


def say_retries() -> None:
    """One line on stderr, if there were any: for the end of a command."""
    if retries():
        print(f"{counted(retries(), 'retry', 'retries')} of requests to remote storage", file=sys.stderr)


def persistently(work: Callable[[], Result], url: str) -> Result:
    """What `work` gives, tried again while the fault may pass. Missing, Forbidden at once; RemoteError in the end."""
    began, pause = time.monotonic(), FIRST_PAUSE_SECONDS
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return work()
        except RemoteError:
            raise
        except Exception as error:
            _raise_if_final(error, url)
            waited = time.monotonic() - began
            if attempt == ATTEMPTS or waited > PATIENCE_SECONDS:
                tries = f"after {counted(attempt, 'try', 'tries')} in {waited:.0f} s ({_reason(error)})"
                raise RemoteError(
                    f"{without_secrets(url)}: no success {tries}; run it again when the storage answers"
                ) from None
        _retries.add(1)
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    raise AssertionError


def status_of(error: BaseException) -> int:
    """The HTTP status behind an error of any backend, 0 where there is none."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
        status = metadata.get("HTTPStatusCode") or getattr(cause, "status", None)
        if status is None:  # gcsfs's; aiohttp has it too, but warns of it
            status = getattr(cause, "code", None)
        if isinstance(status, int | str) and str(status).isdigit() and int(status) >= 300:
            return int(status)
    return 0


def _raise_if_final(error: Exception, url: str) -> None:
    """Raises what no further attempt can change; returns where one may help."""
    status, causes = status_of(error), list(_causes(error))
    if status in MAY_PASS_STATUS or status >= 500 or (not status and any(map(_may_pass, causes))):
        return
    kinds = {cls.__name__ for cause in causes for cls in type(cause).__mro__}
    if status in (404, 410) or (not status and "FileNotFoundError" in kinds):
        raise Missing(errno.ENOENT, f"there is no {without_secrets(url)}; check the address") from None
    if status in (401, 403) or "PermissionError" in kinds or kinds & NO_CREDENTIALS:
        line = (
            f"{without_secrets(url)}: access is refused ({_reason(error)}); check the credentials and what they may do"
        )
        raise Forbidden(errno.EACCES, line) from None
    if isinstance(error, OSError | ValueError) or type(error).__module__.split(".")[0] in BACKENDS:
        raise RemoteError(f"{without_secrets(url)} cannot be used ({_reason(error)}); check the address") from None
    raise error


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(8):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    names = {cls.__name__ for cls in type(error).__mro__}
    return bool(names & MAY_PASS_NAMES) or (isinstance(error, OSError) and error.errno in MAY_PASS_ERRNO)


def _reason(error: BaseException) -> str:
    """In a few words, none of them the backend's own: those may quote the whole address."""
    status, names = status_of(error), {cls.__name__ for cause in _causes(error) for cls in type(cause).__mro__}
    if status:
        return f"HTTP status {status}"
    if names & NO_CREDENTIALS:
        return "there are no credentials"
    if "TimeoutError" in names or "ReadTimeoutError" in names or "ConnectTimeoutError" in names:
        return "no answer in time"
    if names & {"ConnectionError", "ClientConnectionError", "EndpointConnectionError", "HTTPClientError"}:
        return "no connection"
    code = error.errno if isinstance(error, OSError) else None
    return errno.errorcode.get(code, "") if code else type(error).__name__
