"""A JSONL manifest: our own fields, or what others call the same things; the names are in rows.ALIASES.

Relative paths start at the manifest's folder. All other fields are kept in meta. The key of a row that says none is
made from the name of its recording, as keys.py has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from data_prep.importers.parsing.keys import Keys
from data_prep.importers.parsing.options import ImportOptions
from data_prep.importers.parsing.rows import columns_taken, names_without_key, says_key, utterance_of
from data_prep.utterance import Utterance, read_rows
from model.errors import UserError

DEFAULTS = ImportOptions()
PART = re.compile(r"pipe$|bytes:|row:|fault:")  # what our own manifests say; others may call anything a part


def is_jsonl(path: Path) -> bool:
    return path.is_file() and path.name.removesuffix(".gz").endswith((".jsonl", ".json"))


def import_jsonl(path: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """In the order of the lines; a null or empty transcript stays empty, for the build to count.

    UserError: no such file, no lines, a line that is no utterance, a relative path out of the folder unless
    `allow_outside`.
    """
    home, found = options.audio_root or path.parent, False
    keys: Keys | None = None
    for place, row in read_rows(path):
        found = True
        try:
            part = row.pop("part") if PART.match(str(row.get("part", ""))) else ""
            taken = columns_taken(row, options)
            if keys is None and not says_key(row, taken):
                keys = Keys(names_without_key(read_rows(path), options), home)
            yield utterance_of(row, taken, home, options, part=part, keys=keys)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
    if not found:
        raise UserError(f"{path} has no lines; a manifest has one JSON object a line")
