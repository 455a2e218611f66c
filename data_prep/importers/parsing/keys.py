"""Keys for rows that have none, made from the names of their recordings: the same on every machine."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_prep.utterance import is_seconds, safe_key


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
        stems: dict[str, str] = {}
        outside: list[list[str]] = []  # folders of each recording that is not below home
        for name in recordings:
            self._rows[name] += 1
            if stems.setdefault(_stem(name), name) != name:
                self._clashing.add(_stem(name))
            if _is_far(name.removeprefix(self._home)):
                outside = [list(os.path.commonprefix([*outside, name.split("/")[:-1]]))]
        self._shared = len(outside[0]) if outside else 0

    def key(self, name: str, start: Any, duration: Any) -> str:
        """Of the row of the recording `name` that has this cut of it."""
        key = os.path.splitext(os.path.basename(name))[0]
        if _stem(name) in self._clashing:
            path = name.removeprefix(self._home)
            key = "/".join(path.split("/")[self._shared :]) if _is_far(path) else path.lstrip("./")
        return key if self._rows[name] == 1 else key + place_in(start, duration)


def place_in(start: Any, duration: Any) -> str:
    """`-500-1200`: from 0.5 s to 1.2 s. Empty for a whole recording, and where these are no numbers, to be refused."""
    if not is_seconds(start) or not (duration is None or is_seconds(duration)):
        return ""
    return f"-{round(start * 1000)}" + ("" if duration is None else f"-{round((start + duration) * 1000)}")


def _is_far(name: str) -> bool:
    return name.startswith("/") or "://" in name


def _stem(name: str) -> str:
    return safe_key(os.path.splitext(os.path.basename(name))[0])
