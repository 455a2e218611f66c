"""The exception for what a user can correct, and checks that many options share."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the input, in one line: what is wrong, the value, what to do. `slam-asr` and `python -m train` print
    it to stderr and exit with 2. Any other exception is a bug, and keeps its traceback."""


class TransientError(UserError):
    """An error that may be gone at the next try, later or elsewhere: a full disk, a host, a run still ending."""


def require_known(what: str, given: str, known: Iterable[str]) -> None:
    """UserError that names the nearest of `known`, and all of them, unless `given` is one."""
    names = list(known)
    if given not in names:
        near = closest(given, names)
        hint = f", did you mean {near!r}?" if near else ""
        raise UserError(f"{what} {given!r} is not known{hint}; known: {', '.join(names)}")


def closest(given: str, known: Iterable[str]) -> str:
    """The most similar name; empty if there is none."""
    return next(iter(difflib.get_close_matches(given[:80], list(known), n=1)), "")


def hint(given: str, known: Iterable[str]) -> str:
    """', did you mean ...?'; empty if no name is similar."""
    near = closest(given, known)
    return f", did you mean {near}?" if near else ""


def require_at_least(name: str, value: float, least: float) -> None:
    """UserError unless `value` is `least` or more."""
    if not value >= least:
        raise UserError(f"{name} is {value}, it must be at least {least}")


def require_fraction(name: str, value: float) -> None:
    """UserError unless `value` is a fraction."""
    if not 0 <= value <= 1:
        raise UserError(f"{name} is {value:g}, it is a fraction from 0 to 1")


def counted(number: int, what: str, several: str = "") -> str:
    """ "1 problem", "2 problems"; `several` is for other plurals: counted(2, "directory is", "directories are")."""
    return f"{number:,} {what if number == 1 else several or f'{what}s'}"
