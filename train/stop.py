"""Being asked to stop: SIGTERM, SIGUSR1 and SIGINT set a flag that all ranks agree on at the next step.

Standard library only, as the handlers are installed before torch is imported: a signal during the imports would
otherwise kill.
"""

import signal

_asked = False


def install_handlers() -> None:
    """From now on the three signals only set the flag."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, _ask)


def _ask(number: int, frame: object) -> None:
    global _asked
    _asked = True


def asked() -> bool:
    """Whether this rank has been asked to stop."""
    return _asked
