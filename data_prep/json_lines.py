"""Reading JSON Lines files that another process may still be writing, or was killed while writing."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any


def records(lines: Iterable[str] | Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON objects among the lines; anything else, such as half a line, is skipped."""
    for line in lines:
        with suppress(ValueError):
            if isinstance(record := json.loads(line), dict):
                yield record


def read_records(path: Path, last_bytes: int | None = None) -> list[dict[str, Any]]:
    """The records of a file, or only those that begin in its last bytes; none if there is no such file."""
    try:
        with open(path, "rb") as file:
            skipped = max(0, os.fstat(file.fileno()).st_size - last_bytes) if last_bytes is not None else 0
            file.seek(skipped)
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    return list(records(lines[1:] if skipped else lines))
