"""Requests to stop: a signal, or the launcher's end, sets a flag that all ranks agree on at the next step.

Standard library only, as the handlers are installed before torch is imported: a signal during the imports would
otherwise kill.
"""

import contextlib
import os
import signal
import time

_asked_at = 0.0
_reason = ""
_local_rank: int | None = None

SECONDS_TO_INSIST = 2.0  # a launcher passes one Ctrl-C on several times; only one that comes later is a second one


def install_handlers() -> None:
    """From now on SIGTERM, SIGUSR1 and SIGINT only set the flag; a second, later SIGINT raises KeyboardInterrupt."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, _on_signal)


def _on_signal(number: int, frame: object) -> None:
    if number == signal.SIGINT and _asked_at and time.monotonic() - _asked_at > SECONDS_TO_INSIST:
        raise KeyboardInterrupt
    ask(signal.Signals(number).name)


def ask(reason: str) -> None:
    """Asks this run to stop after the step it is in, from any thread; the first reason is kept.

    The first rank of each host prints it at once, as the step may take a while.
    """
    global _asked_at, _reason
    if _asked_at:
        return
    _reason, _asked_at = reason, time.monotonic()
    if (os.environ.get("LOCAL_RANK", "0") if _local_rank is None else str(_local_rank)) == "0":
        with contextlib.suppress(OSError):  # the reader of stderr may have gone with the launcher
            os.write(2, f"train: {reason}: saving and leaving after this step; Ctrl-C again leaves at once\n".encode())


def set_local_rank(local_rank: int) -> None:
    """This rank's number on its host, once known; until then LOCAL_RANK counts, which join_world may set to another."""
    global _local_rank
    _local_rank = local_rank


def asked() -> bool:
    """Whether this rank has been asked to stop."""
    return _asked_at > 0


def reason() -> str:
    """The name of a signal ("SIGTERM"), or what was given to `ask`; "" if not asked."""
    return _reason
