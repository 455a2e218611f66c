"""Requests to remote storage: which are repeated, how often and how long, and the error message in the end.

The backends (s3fs, gcsfs, aiohttp) are optional, and each retries by rules of its own, or calls a server's "503" a
missing file. Theirs are switched off (objects.py); this is the one place that decides."""

import errno
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from data_prep.addresses import without_secrets
from model.errors import UserError, counted

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
    """Storage that cannot be used; the message is one line and names the address without its secrets."""

    def __str__(self) -> str:
        return str(self.args[-1])


class Missing(FileNotFoundError, RemoteError):
    """There is nothing at the address."""

    __str__ = RemoteError.__str__


class Forbidden(PermissionError, RemoteError):
    """The storage does not let these credentials do it."""

    __str__ = RemoteError.__str__


_taken, _lock = 0, threading.Lock()


def retries() -> int:
    """How often this process, or a worker of it whose task is done, repeated a request."""
    return _taken


def count_retries(count: int) -> None:
    """Adds those of another thread or process."""
    global _taken
    with _lock:
        _taken += count


def say_retries() -> None:
    """One line on stderr, if there were any: for the end of a command."""
    if retries():
        print(f"{counted(retries(), 'retry', 'retries')} of requests to remote storage", file=sys.stderr)


def persistently(work: Callable[[], Result], url: str) -> Result:
    """The result of `work`, repeated while the fault may pass. Missing, Forbidden at once; RemoteError in the end."""
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
                tries = f"no success after {counted(attempt, 'try', 'tries')} in {waited:.0f} s ({_reason(error)})"
                raise RemoteError(f"{without_secrets(url)}: {tries}; run it again when the storage answers") from None
        count_retries(1)
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
    kinds = _names(causes)
    if status in (404, 410) or (not status and "FileNotFoundError" in kinds):
        raise Missing(errno.ENOENT, f"there is no {without_secrets(url)}; check the address") from None
    if status in (401, 403) or "PermissionError" in kinds or kinds & NO_CREDENTIALS:
        why = f"access is refused ({_reason(error)}); check the credentials and what they may do"
        raise Forbidden(errno.EACCES, f"{without_secrets(url)}: {why}") from None
    if isinstance(error, OSError | ValueError) or type(error).__module__.split(".")[0] in BACKENDS:
        raise RemoteError(f"{without_secrets(url)} cannot be used ({_reason(error)}); check the address") from None
    raise error


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(8):
        if cause is not None:
            yield cause
            cause = cause.__cause__


def _may_pass(error: BaseException) -> bool:
    is_known = isinstance(error, TimeoutError | ConnectionError) or _names([error]) & MAY_PASS_NAMES
    return bool(is_known) or (isinstance(error, OSError) and error.errno in MAY_PASS_ERRNO)


def _names(errors: Iterable[BaseException]) -> set[str]:
    """Names of their classes and base classes."""
    return {cls.__name__ for error in errors for cls in type(error).__mro__}


def _reason(error: BaseException) -> str:
    """A few words, none of them the backend's own: those may quote the whole address."""
    status, names = status_of(error), _names(_causes(error))
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
