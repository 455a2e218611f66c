"""Being asked to stop: SIGTERM, SIGUSR1 and SIGINT set a flag that all ranks agree on at the next step.

Standard library only, as the handlers are installed before torch is imported: a signal during the imports would
otherwise kill.
"""

import os
import signal
import time

_asked_at = 0.0


SECONDS_TO_INSIST = 2.0
"""A launcher passes one Ctrl-C on several times; only one that comes later is a second one."""


def install_handlers() -> None:
    """From now on the three signals only set the flag."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, _ask)


def _ask(number: int, frame: object) -> None:
    global _asked_at
    now = time.monotonic()
    if number == signal.SIGINT and _asked_at and now - _asked_at > SECONDS_TO_INSIST:
        raise KeyboardInterrupt
    if not _asked_at and os.environ.get("LOCAL_RANK", "0") == "0":
        os.write(2, b"train: saving and leaving after this step; Ctrl-C again leaves at once\n")
    _asked_at = _asked_at or now


def asked() -> bool:
    """Whether this rank has been asked to stop."""
    return _asked_at > 0
