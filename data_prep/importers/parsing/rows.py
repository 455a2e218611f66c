"""Rows of named columns to utterances: what every table, whatever holds it, has in common."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from data_prep import convertible
from data_prep.audio.decode import EXTENSIONS
from data_prep.importers.parsing.cuts import end_as_duration, require_places_read
from data_prep.importers.parsing.keys import Keys
from data_prep.importers.parsing.options import ImportOptions
from data_prep.utterance import FIELDS, MAX_LINE_BYTES, Utterance, read_rows, resolve_audio, safe_key
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
    "end": ("end", "end_time", "stop", "end_sec"),  # no field: with the start it says the duration
    "language": ("language", "lang", "locale"),
    "speaker": ("speaker", "speaker_id", "spk_id", "client_id"),
    "task": ("task",),
}
REQUIRED = ("audio", "text")
UNSURE = {"text": ("label",)}  # read where a table has no other column for the field
RECORDINGS = tuple(f".{extension}" for extension in (*EXTENSIONS, *convertible.EXTENSIONS))
NUMBERS = ("start", "duration", "end")


def columns_taken(names: Collection[str], options: ImportOptions, unsure: bool = False) -> dict[str, str]:
    """Field of Utterance to the column it is read from: the one the person named, else the first of ALIASES, else,
    where `unsure`, of UNSURE. `names` may be the first row, whose values then help to say what is missing.

    UserError: a column named that is not there; none for the audio or the text; one that looks like a cut's, not read.
    """
    taken = {field: next((name for name in known if name in names), None) for field, known in ALIASES.items()}
    for field in (*REQUIRED, "speaker") if unsure else REQUIRED:
        taken[field] = taken[field] or column_of(field, names, unsure)
    for field, name in options.columns.items():
        if name and name not in names:
            raise UserError(f"no column {name!r} for {field}{nearest(name, names)}")
        taken[field] = name or None
    missing = [field for field in REQUIRED if taken[field] is None]
    if missing:
        none = " and ".join(f"no column {field!r} (nor {', '.join(ALIASES[field][1:])})" for field in missing)
        say = " ".join(f"--column {field}={_likely(field, names, taken)}" for field in missing)
        raise UserError(f"{none}, there are: {shown(names)}; say which: {say}")
    require_places_read(taken, names, options.columns)
    return {field: name for field, name in taken.items() if name is not None}


def column_of(field: str, names: Iterable[str], unsure: bool = False) -> str | None:
    """The column of those `names` that ALIASES has for the field, whatever its capitals and spaces: "File Name"."""
    alike = {name: re.sub("[ -]", "_", name.strip(' "').casefold()) for name in map(str, names)}
    known = (*ALIASES[field], *(UNSURE.get(field, ()) if unsure else ()))
    return next((name for alias in known for name, plain in alike.items() if plain == alias), None)


def _likely(field: str, names: Collection[str], taken: Mapping[str, str | None]) -> str:
    """The column that probably holds the field, for a message: by the first row's values, by its name, or as the only
    one that is left."""
    free = [str(name) for name in names if name not in taken.values()]
    values = names if isinstance(names, Mapping) else {}
    recordings = [name for name in free if str(values.get(name, "")).lower().endswith(RECORDINGS)]
    if field == "audio":
        return next(iter(recordings), "NAME")
    free = [name for name in free if name not in recordings]
    near = next((name for name in free if closest(name.casefold(), (*ALIASES[field], *UNSURE[field]))), "")
    return near or (free[0] if len(free) == 1 else "NAME")


def utterance_of(
    row: Mapping[str, Any],
    taken: Mapping[str, str],
    home: Path,
    options: ImportOptions,
    key: str = "",
    part: str = "",
    keys: Keys | None = None,
) -> Utterance:
    """`taken` columns become fields, all others meta; paths start at `home`. A null or empty value is a default.

    `key`, or that of `keys`, is for rows that say none; `part` is Utterance's.
    """
    values: dict[str, Any] = {field: row.get(name) for field, name in taken.items()}
    values = end_as_duration({field: value for field, value in values.items() if value not in (None, "")})
    meta = {**_meta(row), **{name: row[name] for name in row if name not in taken.values() and name != "meta"}}
    if keys and "key" not in values:
        key = keys.key(str(values.get("audio", "")), values.get("start"), values.get("duration"))
    raw = str(values.get("key", key))
    values["key"] = safe_key(raw)
    if values["key"] != raw:
        meta["id"] = raw
    values["audio"] = audio_of(values.get("audio"), part, home, options)
    values["speaker"] = str(values.get("speaker", ""))
    return Utterance(**{"text": "", **values}, part=part, meta=meta)


def audio_of(audio: Any, part: str, home: Path, options: ImportOptions) -> str:
    """The path or address meant; a command (part "pipe") as it is, UserError unless such are allowed."""
    if part != "pipe":
        return resolve_audio(audio, home, options.allow_outside)
    if not options.allow_pipes:
        raise UserError(f"audio {str(audio)[:80]!r} is a command; it is run by the build only with --allow-pipes")
    return audio


def says_key(row: Mapping[str, Any], taken: Mapping[str, str]) -> bool:
    return row.get(taken.get("key", "")) not in (None, "")


def names_without_key(
    rows: Iterable[tuple[str, Mapping[str, Any]]], options: ImportOptions, unsure: bool = False
) -> Iterator[str]:
    """For Keys: the recordings of rows that say no key. What cannot be read is left for the import to refuse."""
    with suppress(UserError):
        for _, row in rows:
            with suppress(UserError):
                taken = columns_taken(row, options, unsure)
                if not says_key(row, taken):
                    yield str(row.get(taken["audio"]))


def with_numbers(row: Mapping[str, str], taken: Mapping[str, str]) -> dict[str, Any]:
    """A row of a table that is text, its seconds as numbers; UserError for what is none."""
    numbers: dict[str, Any] = {}
    for field in NUMBERS:
        text = row.get(taken.get(field, ""), "")
        if text:
            try:
                numbers[taken[field]] = float(text)
            except ValueError:
                raise UserError(f"{field} is {text[:40]!r}, it must be seconds") from None
    return {**row, **numbers}


def nearest(name: str, known: Collection[str]) -> str:
    """For the end of "no X": the nearest that there is, or what there is."""
    near = closest(name, map(str, known))
    return f"; did you mean {near!r}?" if near else f"; there are: {shown(known)}"


def shown(names: Collection[str]) -> str:
    """Names for a message, bounded."""
    listed = [str(name)[:40] for name in names]
    return ", ".join(listed[:20]) + (f" and {len(listed) - 20:,} more" if len(listed) > 20 else "") or "none"


def first_row(path: Path, max_line_bytes: int = MAX_LINE_BYTES) -> dict[str, Any]:
    """Of a JSONL file, to recognise it by; empty where there is none. Never raises."""
    try:
        return next(read_rows(path, max_line_bytes), ("", {}))[1]
    except UserError:
        return {}


def _meta(row: Mapping[str, Any]) -> dict[str, Any]:
    meta = row.get("meta") or {}
    if not isinstance(meta, Mapping):
        raise UserError(f"meta is {meta!r}, it must be an object")
    return dict(meta)


assert set(ALIASES) | {"part", "meta"} == {*FIELDS, "end"}
