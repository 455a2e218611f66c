"""A JSONL manifest: our own fields, or other common names for the same (rows.ALIASES).

Relative paths start at the manifest's folder. All other fields are kept in meta. The key of a row that has none is made
from the name of its recording, as described at rows.Keys.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.importers.parsing.importer import DEFAULTS, ImportOptions
from data_prep.importers.parsing.rows import NamedRows, columns_taken, utterances
from data_prep.utterance import Utterance, read_rows

PART = re.compile(r"pipe$|bytes:|row:|fault:")  # as our own manifests have it; others may call anything a part


def is_jsonl(path: Path) -> bool:
    return path.is_file() and path.name.removesuffix(".gz").endswith((".jsonl", ".json"))


def import_jsonl(path: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """In the order of the lines; a null or empty transcript stays empty, for the build to count.

    UserError: no such file, no lines, a line that is no utterance, a relative path out of the folder unless
    `allow_outside`.
    """
    named = NamedRows(lambda: read_rows(path), options.audio_root or path.parent, options)

    def utterance(row: dict[str, Any]) -> Utterance:
        part = row.pop("part") if PART.match(str(row.get("part", ""))) else ""
        return named.utterance(row, columns_taken(row, options), part)

    yield from utterances(read_rows(path), utterance, f"{path} has no lines; a manifest has one JSON object a line")
