"""What an importer says about a corpus that it reads nevertheless."""

from __future__ import annotations

import sys


def say(remark: str) -> None:
    """One line to stderr."""
    print(remark, file=sys.stderr, flush=True)


class Without:
    """Counts what lacks its counterpart, and says so once."""

    def __init__(self, what: str) -> None:
        """`what`: "recordings have no transcript"."""
        self._what, self._count, self._first = what, 0, ""

    def add(self, name: object) -> None:
        self._first = self._first or str(name)
        self._count += 1

    def say(self) -> None:
        """Nothing where nothing lacks."""
        if self._count:
            say(f"{self._count:,} {self._what}, {self._first} first")
