"""Text files that other toolkits wrote, read strictly, so that every fault has a file and a line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.durable import open_regular
from data_prep.importers.parsing.options import ImportOptions
from data_prep.importers.parsing.rows import nearest
from data_prep.utterance import MAX_LINE_BYTES, not_utf8
from model.errors import UserError

SPACE = " \t\r\f\v"  # what separates words in such files; other Unicode spaces belong to the text
BETWEEN = re.compile(f"[{SPACE}]+")


class Entry(NamedTuple):
    """A line of a table: what follows its first word."""

    place: str
    """file:line"""
    value: str


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(file:line, text) of each line that is not empty, without space at its ends and a byte-order mark.

    UserError: what cannot be read, is not UTF-8, holds a NUL or is longer than MAX_LINE_BYTES.
    """
    for place, line in text_lines(path):
        if "\0" in line:
            raise UserError(f"{place}: the line holds a NUL; the file is damaged, or no text")
        text = line.strip(SPACE + "\n")
        if text:
            yield place, text


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(file:line, text) of each line, with its end, without a byte-order mark.

    UserError: what cannot be read, is not UTF-8 or is longer than MAX_LINE_BYTES.
    """
    number = 0
    try:
        with open_regular(path) as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                if len(line) > MAX_LINE_BYTES:
                    raise UserError(
                        f"{path}:{number}: the line is longer than {MAX_LINE_BYTES:,} bytes; is this a text file?"
                    )
                yield f"{path}:{number}", line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: {not_utf8(error)}; convert the file to UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; it must be a text file") from None


def read_keyed(path: Path) -> dict[str, Entry]:
    """First word of each line to the rest of it, in the file's order. UserError for a first word there twice."""
    table: dict[str, Entry] = {}
    for place, line in read_lines(path):
        name, value = (BETWEEN.split(line, 1) + [""])[:2]
        if name in table:
            raise UserError(
                f"{place}: {name} is there twice, first at {table[name].place}; remove one of the two lines"
            )
        table[name] = Entry(place, value)
    return table


def fields_taken(row: Mapping[str, Any], names: Mapping[str, Sequence[str]], options: ImportOptions) -> dict[str, str]:
    """Field of Utterance to the name in `row` that says it: the person's (--column), else the first of `names` that is
    not null. UserError for a name of the person's that the row has not.
    """
    taken = {}
    for field, known in names.items():
        there = [name for name in known if name in row]
        taken[field] = next((name for name in there if row[name] is not None), there[0] if there else "")
    for field, name in options.columns.items():
        if name and name not in row:
            raise UserError(f"no field {name!r} for {field}{nearest(name, row)}")
        taken[field] = name
    return {field: name for field, name in taken.items() if name}
