"""Keys for rows that say none, made from the names of their recordings: the same on every machine."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_prep.utterance import safe_key

MAX_SECONDS_NAMED = 1e9  # in a key that is made from them; beyond is no place in a recording


class Keys:
    """After a look at all recordings: the stem of the file's name; where stems clash, the path for each of them, from
    `home` on, or else from the folder that all outside it share; where a recording has several rows, the cut's place
    behind it (milliseconds).
    """

    def __init__(self, recordings: Iterable[str], home: Path) -> None:
        """`recordings`: as each row without a key of its own names it."""
        self._home = os.path.abspath(home) + os.sep
        self._rows: Counter[str] = Counter()
        self._clashing: set[str] = set()
        self._shared: list[str] | None = None  # folders that all share, of those outside home
        stems: dict[str, str] = {}
        for name in recordings:
            self._rows[name] += 1
            if stems.setdefault(_stem(name), name) != name:
                self._clashing.add(_stem(name))
            if _is_far(self._inside(name)):
                folders = name.split("/")[:-1]
                self._shared = folders if self._shared is None else _beginning(self._shared, folders)

    def key(self, name: str, start: Any, duration: Any) -> str:
        """Of the row of the recording `name` that has this cut of it."""
        key = self._path(name) if _stem(name) in self._clashing else os.path.splitext(os.path.basename(name))[0]
        return key if self._rows[name] == 1 else key + place_in(start, duration)

    def _path(self, name: str) -> str:
        name = self._inside(name)
        return "/".join(name.split("/")[len(self._shared or ()) :]) if _is_far(name) else name.lstrip("./")

    def _inside(self, name: str) -> str:
        return name.removeprefix(self._home)


def place_in(start: Any, duration: Any) -> str:
    """`-500-1200`: from 0.5 s to 1.2 s. Empty for a whole recording, and where these are no numbers, to be refused."""
    if not isinstance(start, int | float) or not isinstance(duration, int | float | None):
        return ""
    if not (abs(start) < MAX_SECONDS_NAMED and abs(duration or 0) < MAX_SECONDS_NAMED):
        return ""
    return f"-{round(start * 1000)}" + ("" if duration is None else f"-{round((start + duration) * 1000)}")


def _beginning(one: list[str], other: list[str]) -> list[str]:
    """What both begin with."""
    count = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:count]


def _is_far(name: str) -> bool:
    return name.startswith("/") or "://" in name


def _stem(name: str) -> str:
    return safe_key(os.path.splitext(os.path.basename(name))[0])
