"""Rows of named columns to utterances: what every table, whatever holds it, has in common."""

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.audio.decode import EXTENSIONS
from data_prep.importers.parsing.importer import ImportOptions, Recording, at, nearest, shown
from data_prep.refusals import CONVERTIBLE
from data_prep.utterance import FIELDS, MAX_LINE_BYTES, Utterance, is_seconds, read_rows, resolve_audio, safe_key
from model.errors import UserError, closest

ALIASES = {  # field of Utterance: the names of columns it is read from, the first that is there
    "audio": (
        *("audio", "audio_filepath", "audio_path", "file_name", "path", "wav", "wav_filename", "file"),
        *("filename", "filepath", "file_path", "audio_file", "wav_path"),
    ),
    "key": ("key", "utt_id", "id", "ID"),
    "text": ("text", "transcript", "transcription", "sentence", "normalized_text", "wrd"),
    "start": ("start", "offset", "start_time", "begin", "begin_time", "start_sec"),
    "duration": ("duration", "dur"),
    "end": ("end", "end_time", "stop", "end_sec"),  # no field: with the start it gives the duration
    "language": ("language", "lang", "locale"),
    "speaker": ("speaker", "speaker_id", "spk_id", "client_id"),
    "task": ("task",),
}
assert set(ALIASES) | {"part", "meta"} == {*FIELDS, "end"}
REQUIRED = ("audio", "text")
UNSURE = {"text": ("label",)}  # read where a table has no other column for the field
SOUND = tuple(f".{extension}" for extension in EXTENSIONS)  # of files that are read
TO_CONVERT = tuple(f".{extension}" for extension in CONVERTIBLE)
RECORDINGS = SOUND + TO_CONVERT
NUMBERS = ("start", "duration", "end")
ROUNDED_SECONDS = 0.02  # start, end and duration are often written with two decimals
UNIT = r"(?:[ _-]?(?:m?s|msecs?|secs?|seconds?|milliseconds?|time|stamp|times?tamp|frames?|samples?))?"
OF_WHAT = r"(?:(?:segment|seg|clip|cut|audio|utt|utterance|speech|time|t)[ _-]?)?"
CUTS = (  # field, columns that look like it, fields of which one is enough
    ("start", re.compile(rf"{OF_WHAT}(?:start|begin|offset|onset){UNIT}", re.IGNORECASE), ("start",)),
    ("end", re.compile(rf"{OF_WHAT}(?:end|stop){UNIT}", re.IGNORECASE), ("end", "duration")),
)
Row = Mapping[str, Any]
Columns = dict[str, str]
"""Field of Utterance (or "end") to the column it is read from."""


def utterances(rows: Iterable[tuple[str, Any]], read: Callable[[Any], Utterance], empty: str) -> Iterator[Utterance]:
    """`read` of each (place, row). UserError with the place of a row that is refused; `empty` where there is no row."""
    place = ""
    for place, row in rows:
        with at(place):
            utterance = read(row)
        yield utterance
    if not place:
        raise UserError(empty)


def utterance_of(
    row: Row, columns: Columns, recording: Recording, make_key: Callable[[Any, Any], str] | None = None
) -> Utterance:
    """`columns` become fields, all others meta. A null or empty value is a default, but an empty transcript is one of
    no words, and a null not known. `make_key` gives the key of a row
    that has none, by start and duration. UserError for a value that cannot be."""
    values = {field: row.get(name) for field, name in columns.items() if field != "audio"}
    values = _end_as_duration({field: value for field, value in values.items() if value not in (None, "")})
    meta = row.get("meta") or {}
    if not isinstance(meta, Mapping):
        raise UserError(f"meta is {meta!r}, it must be an object")
    meta = {**meta, **{name: row[name] for name in row if name not in columns.values() and name != "meta"}}
    if "key" not in values:
        values["key"] = make_key(values.get("start"), values.get("duration")) if make_key else ""
    raw = str(values["key"])
    values |= {"key": safe_key(raw), "speaker": str(values.get("speaker", ""))}
    meta |= {"id": raw} if values["key"] != raw else {}
    empty = "" if row.get(columns.get("text", "")) == "" else None
    return Utterance(**{"text": empty, **values}, audio=recording.audio, part=recording.part, meta=meta)


class Keys:
    """Keys for rows that have none, from the names of all recordings, the same on every machine: the stem of the file's
    name; where stems clash, the path for each of them, from `home` on, or else from the folder that all outside it
    share; where a recording has several rows, the cut's place behind it (`-500-1200`: from 0.5 to 1.2 s)."""

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
        if self._rows[name] == 1 or not is_seconds(start) or not (duration is None or is_seconds(duration)):
            return key  # that of a whole recording; what is no number is refused later
        return f"{key}-{round(start * 1000)}" + ("" if duration is None else f"-{round((start + duration) * 1000)}")


def _is_far(name: str) -> bool:
    return name.startswith("/") or "://" in name


def _stem(name: str) -> str:
    return safe_key(os.path.splitext(os.path.basename(name))[0])


class NamedRows:
    """Rows whose columns have one of the names of ALIASES, or those given with --column. Keys of rows that have none
    are made by Keys, for which all rows are read once more when the first such row is met."""

    def __init__(
        self, rows: Callable[[], Iterable[tuple[str, Row]]], home: Path, options: ImportOptions, unsure: bool = False
    ) -> None:
        """`rows` reads them all; relative paths start at `home`; `unsure`: as `columns_taken`."""
        self._rows, self._home, self._options, self._unsure = rows, home, options, unsure
        self._keys: Keys | None = None

    def utterance(self, row: Row, columns: Columns, part: str = "") -> Utterance:
        if self._keys is None and not _has_key(row, columns):
            self._keys = Keys(self._names_without_key(), self._home)
        make_key = partial(self._keys.key, str(row[columns["audio"]])) if self._keys else None
        recording = Recording(audio_of(row[columns["audio"]], self._home, self._options, part), part)
        return utterance_of(row, columns, recording, make_key)

    def _names_without_key(self) -> Iterator[str]:
        """What cannot be read is left for the import to refuse."""
        with suppress(UserError):
            for _, row in self._rows():
                with suppress(UserError):
                    columns = columns_taken(row, self._options, self._unsure)
                    if not _has_key(row, columns):
                        yield str(row[columns["audio"]])


def audio_of(audio: Any, home: Path, options: ImportOptions, part: str = "") -> str:
    """The path or address meant; a command (part "pipe") as it is, UserError unless such are allowed."""
    if part != "pipe":
        return resolve_audio(audio, home, options.allow_outside)
    if not options.allow_pipes:
        raise UserError(f"audio {str(audio)[:80]!r} is a command; it is run by the build only with --allow-pipes")
    return audio


def columns_taken(names: Collection[str], options: ImportOptions, unsure: bool = False) -> Columns:
    """The column given for each field with --column, else the first of ALIASES, else, where `unsure`, of UNSURE.
    `names` may be the first row, whose values then help to say what is missing.

    UserError: a column named that is not there; none for the audio or the text; one that looks like a cut's, not read.
    """
    taken = {field: next((name for name in known if name in names), None) for field, known in ALIASES.items()}
    for field in (*REQUIRED, "speaker") if unsure else REQUIRED:
        taken[field] = taken[field] or column_of(field, names, unsure)
    taken = _with_columns_named(taken, names, options)
    missing = [field for field in REQUIRED if taken[field] is None]
    if missing and unsure and any(name.lower().endswith(RECORDINGS) for name in names):
        line = "put a line above it that names them, such as audio,text"
        raise UserError(f"the first line ({shown(names)}) is an utterance and names no columns; {line}")
    if missing:
        none = " and ".join(f"no column {field!r} (nor {', '.join(ALIASES[field][1:])})" for field in missing)
        say = " ".join(f"--column {field}={_likely(field, names, taken)}" for field in missing)
        raise UserError(f"{none}, there are: {shown(names)}; say which: {say}")
    for field, looks, enough in CUTS:
        if not any(taken[name] or name in options.columns for name in enough):
            name = next((name for name in map(str, names) if looks.fullmatch(name)), None)
            if name is not None:
                raise UserError(
                    f"column {name!r} looks like the {field} of a cut, and is not read; if it is that, in seconds: "
                    f"--column {field}={name}, if it is not: --column {field}="
                )
    return {field: name for field, name in taken.items() if name is not None}


def fields_taken(
    row: Row, names: Mapping[str, Sequence[str]], options: ImportOptions, required: Sequence[str] = ("text",)
) -> Columns:
    """The same for a toolkit's own `names`: the first that is not null. UserError for one given with --column that
    the row does not have, and for a `required` field without one."""
    taken: dict[str, str | None] = {}
    for field, known in names.items():
        present = sorted((name for name in known if name in row), key=lambda name: row[name] is None)
        taken[field] = next(iter(present), None)
    taken = _with_columns_named(taken, row, options)
    for field in required:
        if taken[field] is None:
            known = " or ".join(names[field])
            raise UserError(f"no field {known!r}, there are: {shown(row)}; say which: --column {field}=NAME")
    return {field: name for field, name in taken.items() if name is not None}


def column_of(field: str, names: Iterable[str], unsure: bool = False) -> str | None:
    """The column of those `names` that ALIASES has for the field, whatever its capitals and spaces: "File Name"."""
    alike = {name: re.sub("[ -]", "_", name.strip(' "').casefold()) for name in map(str, names)}
    known = (*ALIASES[field], *(UNSURE.get(field, ()) if unsure else ()))
    return next((name for alias in known for name, plain in alike.items() if plain == alias), None)


def with_numbers(row: Mapping[str, str], columns: Columns) -> dict[str, Any]:
    """A row of a table that is text, its seconds as numbers; UserError for what is none."""
    numbers: dict[str, Any] = {}
    for field in NUMBERS:
        text = row.get(columns.get(field, ""), "")
        try:
            numbers |= {columns[field]: float(text)} if text else {}
        except ValueError:
            raise UserError(f"{field} is {text[:40]!r}, it must be seconds") from None
    return {**row, **numbers}


def first_row(path: Path, max_line_bytes: int = MAX_LINE_BYTES) -> dict[str, Any]:
    """Of a JSONL file, to recognise it by; empty where there is none. Never raises."""
    try:
        return next(read_rows(path, max_line_bytes), ("", {}))[1]
    except UserError:
        return {}


def _has_key(row: Row, columns: Columns) -> bool:
    return row.get(columns.get("key", "")) not in (None, "")


def _with_columns_named(
    taken: Mapping[str, str | None], names: Collection[str], options: ImportOptions
) -> dict[str, str | None]:
    """With the choices of --column; an empty name stands for no column."""
    for field, name in options.columns.items():
        if name and name not in names:
            raise UserError(f"no column {name!r} for {field}{nearest(name, names)}")
    return {**taken, **{field: name or None for field, name in options.columns.items()}}


def _likely(field: str, names: Collection[str], taken: Row) -> str:
    """The column that probably holds the field, by the first row's values, by its name, or as the only one left."""
    free = [str(name) for name in names if name not in taken.values()]
    values = names if isinstance(names, Mapping) else {}
    recordings = [name for name in free if str(values.get(name, "")).lower().endswith(RECORDINGS)]
    if field == "audio":
        return next(iter(recordings), "NAME")
    free = [name for name in free if name not in recordings]
    near = next((name for name in free if closest(name.casefold(), (*ALIASES[field], *UNSURE[field]))), "")
    return near or (free[0] if len(free) == 1 else "NAME")


def _end_as_duration(values: dict[str, Any]) -> dict[str, Any]:
    """Fields of Utterance, of those and "end": an exact cut, from 0 where no start is given. UserError: an end that
    does not come after the start, a duration that contradicts them."""
    if "end" not in values:
        return values
    end, start, stated = values.pop("end"), values.setdefault("start", 0.0), values.get("duration")
    if not (is_seconds(start) and is_seconds(end) and start < end):
        raise UserError(f"a cut from {str(start)[:40]} to {str(end)[:40]}; both are seconds, the end after the start")
    values["duration"] = duration = round(end - start, 9)
    if stated is not None and not (is_seconds(stated) and abs(stated - duration) <= ROUNDED_SECONDS):
        raise UserError(
            f"duration is {str(stated)[:40]}, but the cut from {start} to {end} s is one of {duration} s; "
            "say which column not to read: --column duration= or --column end="
        )
    return values
