"""CSV and TSV: a line of column names, then one utterance a line. JSONL: the same names (rows.ALIASES) as fields.

A value with the delimiter, a quote or a line end in it stands in double quotes, where a quote is written twice; spaces
before a value are not part of it, so that `a.wav, "some words"` is read as it is meant. In a .tsv whose first lines are
not so, quotes are characters like others, which is reported. Relative paths start at the table's folder. All other
columns are kept in meta. Rows without a key get theirs as described at rows.Keys."""

import csv
import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from data_prep.durable import repeated
from data_prep.importers.parsing.files import text_lines
from data_prep.importers.parsing.importer import DEFAULTS, ImportOptions, at, say
from data_prep.importers.parsing.rows import UNSURE, NamedRows, columns_taken, utterances, with_numbers
from data_prep.utterance import Utterance, read_rows
from model.errors import UserError, counted

DELIMITERS = ",;\t|"
FIRST_LINES = 100  # examined
LONGEST_VALUE = 10  # lines
PART = re.compile(r"pipe$|bytes:|row:|fault:")  # as our own manifests have it; others may call anything a part


def is_jsonl(path: Path) -> bool:
    return path.is_file() and path.name.removesuffix(".gz").endswith((".jsonl", ".json"))


def import_jsonl(path: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """In the order of the lines; a null or empty transcript is left to the build to count. UserError: no such
    file, no lines, a line that is no utterance, a relative path out of the folder unless `allow_outside`."""
    named = NamedRows(lambda: read_rows(path), options.audio_root or path.parent, options)

    def utterance(row: dict[str, Any]) -> Utterance:
        part = row.pop("part") if PART.match(str(row.get("part", ""))) else ""
        return named.utterance(row, columns_taken(row, options), part)

    yield from utterances(read_rows(path), utterance, f"{path} has no lines; a manifest has one JSON object a line")


def is_table(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in (".csv", ".tsv")


def import_table(path: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """In the order of the rows. UserError, with file and line: no header, a row of more or fewer values, no UTF-8,
    a column that is not there, a row that is no utterance."""
    no_rows = f"{path} has no rows below its line of column names"
    quoting = is_quoted(path)
    first = next(read_table(path, quoting), None)
    if first is None:
        raise UserError(no_rows)
    with at(f"{path}:1"):
        columns = columns_taken(first[1], options, unsure=True)
    if columns["text"] in UNSURE["text"] and "text" not in options.columns:
        say(f"{path}: transcripts are read from column {columns['text']!r}; another is chosen with --column text=NAME")
    named = NamedRows(lambda: read_table(path, quoting), options.audio_root or path.parent, options, unsure=True)
    rows = read_table(path, quoting)
    yield from utterances(rows, lambda row: named.utterance(with_numbers(row, columns), columns), no_rows)


def is_quoted(path: Path) -> bool:
    """Whether quotes enclose values in a table: not in a .tsv of which the first lines would then be no rows."""
    if path.suffix.lower() != ".tsv":
        return True
    lines = list(islice((line for _, line in text_lines(path)), FIRST_LINES))
    rows = csv.reader(lines, delimiter="\t", skipinitialspace=True, strict=True)
    read, count = 0, 0
    try:
        for values in rows:
            count = count or len(values)
            if (values and len(values) != count) or any("\n" in value and "\t" in value for value in values):
                break  # a quote that was left open has swallowed a row
            read = rows.line_num
        else:
            return True
    except csv.Error:
        if len(lines) == FIRST_LINES and read > FIRST_LINES - LONGEST_VALUE and rows.line_num == FIRST_LINES:
            return True  # a value that goes on behind them
    if '"' not in "".join(lines):
        return True  # another fault, named when the row is read
    say(f"{path}: quotes are read as characters: line {read + 1} would be no row otherwise")
    return False


def read_table(path: Path, quoting: bool = True) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, column to value) for each row that is not empty. Tabs in .tsv, else what parts the header most often.
    Without `quoting`, quotes are characters like others."""
    header: list[str] = []
    lines = (line for _, line in text_lines(path))
    first = next(lines, "")
    rows = csv.reader(
        chain([first], lines),
        delimiter="\t" if path.suffix.lower() == ".tsv" else max(DELIMITERS, key=first.count),
        quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE,
        skipinitialspace=quoting,
        strict=True,
    )
    try:
        for values in rows:
            place = f"{path}:{rows.line_num}"
            if not header:
                header = _header(values, place)
            elif len(values) == len(header):
                yield place, dict(zip(header, values, strict=True))
            elif values:
                columns = counted(len(header), "column")
                raise UserError(f"{place}: {counted(len(values), 'value')}, the header names {columns}")
    except csv.Error as error:
        raise UserError(f"{path}:{rows.line_num}: {error}; is a quote missing?") from None


def _header(names: list[str], place: str) -> list[str]:
    names = [name.strip() for name in names]
    if "" in names:
        raise UserError(f"{place}: a column has no name; the first line names the columns")
    twice = repeated(names)
    if twice:
        raise UserError(f"{place}: column {twice[:80]!r} is there twice")
    return names
