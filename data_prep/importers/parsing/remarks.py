"""What an importer says about a corpus that it reads nevertheless."""

from __future__ import annotations

import sys
from dataclasses import replace

from data_prep.figures import counted
from data_prep.utterance import Utterance


def say(remark: str) -> None:
    """One line to stderr."""
    print(remark, file=sys.stderr, flush=True)


class Without:
    """Counts what lacks its counterpart, and says so once."""

    def __init__(self, one: str, several: str) -> None:
        """`one`: "recording has no transcript"; `several`: "recordings have no transcript"."""
        self._one, self._several, self._count, self._first = one, several, 0, ""

    def add(self, name: object) -> None:
        self._first = self._first or str(name)
        self._count += 1

    def say(self) -> None:
        """Nothing where nothing lacks."""
        if self._count:
            say(f"{counted(self._count, self._one, self._several)}, {self._first} first")


def without_transcript(utterance: Utterance, why: str) -> Utterance:
    """The same as one that import and build count as bad, for the reason no-transcript."""
    return replace(utterance, text=f"not used: {why}", part=f"fault:no-transcript:{why}")  # no text is another fault
