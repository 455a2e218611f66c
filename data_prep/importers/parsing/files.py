"""Files and folders of a corpus, read strictly: every fault has a file and a line, and no folder is passed over."""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.durable import open_regular, strict_json
from data_prep.importers.parsing.importer import nearest
from data_prep.utterance import MAX_LINE_BYTES, not_utf8
from model.errors import UserError

SPACE = " \t\r\f\v"  # what separates words in such files; other Unicode spaces belong to the text
BETWEEN = re.compile(f"[{SPACE}]+")


class Entry(NamedTuple):
    """A line of a table."""

    place: str  # FILE:LINE
    value: str  # what follows its first word


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(file:line, text) of each line, with its line end, without a byte-order mark. UserError: what cannot be read, is
    not UTF-8 or is longer than MAX_LINE_BYTES."""
    number = 0
    try:
        with open_regular(path) as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                place = f"{path}:{number}"
                if len(line) > MAX_LINE_BYTES:
                    raise UserError(f"{place}: the line is longer than {MAX_LINE_BYTES:,} bytes; is this a text file?")
                yield place, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: {not_utf8(error)}; convert the file to UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; it must be a text file") from None


def first_line(path: Path) -> str:
    """The first line that is not empty, to recognise a file by; "" where there is none. Never raises."""
    try:
        return next((line.strip() for _, line in text_lines(path) if line.strip()), "")
    except UserError:
        return ""


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """`text_lines` that are not empty, without space at their ends. UserError also for a NUL."""
    for place, line in text_lines(path):
        if "\0" in line:
            raise UserError(f"{place}: the line holds a NUL; the file is damaged, or no text")
        text = line.strip(SPACE + "\n")
        if text:
            yield place, text


def read_keyed(path: Path) -> dict[str, Entry]:
    """First word of each line to the rest of it, in the file's order. UserError for a first word there twice."""
    table: dict[str, Entry] = {}
    for place, line in read_lines(path):
        name, value = (BETWEEN.split(line, 1) + [""])[:2]
        if name in table:
            first = table[name].place
            raise UserError(f"{place}: {name} is there twice, first at {first}; remove one of the two lines")
        table[name] = Entry(place, value)
    return table


def json_object(data: bytes) -> dict[str, Any]:
    """ValueError, of one line, for what is no JSON object."""
    try:
        row = strict_json(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None
    if not isinstance(row, dict):
        raise ValueError("it is no object")
    return row


def chosen_splits(splits: Sequence[str], wanted: str, corpus: Path) -> list[str]:
    """Those that the pattern `wanted` fits (train, train*, * for all); without one, the only split there is. UserError:
    none fits, or there are several and none was asked for: test data would be trained on unseen."""
    if not wanted and len(splits) > 1:
        raise UserError(f"{corpus} holds several splits: {', '.join(splits)}; choose with --subset NAME, or '*'")
    chosen = [split for split in splits if not wanted or fnmatchcase(split, wanted)]
    if not chosen:
        raise UserError(f"{corpus} has no split {wanted!r}{nearest(wanted, splits)}")
    return chosen


def files_below(folder: Path, suffixes: Collection[str] = ("",), depth: int | None = None) -> list[Path]:
    """Files whose names end in one of `suffixes`, by path; at most `depth` folders down (0: in the folder itself).
    UserError for a folder that cannot be read."""
    endings = tuple(suffixes)
    return sorted(Path(at, name) for at, names in walked(folder, depth) for name in names if name.endswith(endings))


def files_in(folder: Path, suffixes: Collection[str], beginning: str = "") -> list[Path]:
    """Files of the folder itself with such names, sorted; none where there is no folder."""
    files = files_below(folder, suffixes, depth=0) if folder.is_dir() else []
    return [path for path in files if path.name.startswith(beginning)]


def walked(
    folder: str | Path, depth: int | None = None, above: tuple[tuple[int, int], ...] = ()
) -> Iterator[tuple[str, list[str]]]:
    """(folder, names of its files) for it and those below, in the order of names. Links to folders are followed, but
    not around in circles: not into those `above`. UserError for a folder that cannot be read."""
    folder = str(folder)
    files, folders = [], []
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in above:
            return
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                (folders if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}; mend its rights, or leave it out") from None
    yield folder, files
    if depth != 0:
        above = (*above, (status.st_dev, status.st_ino))
        for name in folders:
            yield from walked(os.path.join(folder, name), None if depth is None else depth - 1, above)
