"""Rows of named columns to utterances: what every table, whatever holds it, has in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from data_prep.importers.options import ImportOptions
from data_prep.utterance import FIELDS, MAX_LINE_BYTES, Utterance, read_rows, resolve_audio, safe_key
from model.errors import UserError, closest

ALIASES = {  # field of Utterance: the names of columns it is read from, the first that is there
    "audio": ("audio", "audio_filepath", "audio_path", "file_name", "path", "wav", "wav_filename", "file"),
    "key": ("key", "utt_id", "id", "ID"),
    "text": ("text", "transcript", "transcription", "sentence", "normalized_text", "wrd"),
    "start": ("start", "offset"),
    "duration": ("duration",),
    "language": ("language", "lang", "locale"),
    "speaker": ("speaker", "speaker_id", "spk_id", "client_id"),
    "task": ("task",),
}
REQUIRED = ("audio", "text")
NUMBERS = ("start", "duration")
MAX_SECONDS_NAMED = 1e9  # in a key that is made from them; beyond is no place in a recording


def columns_taken(names: Collection[str], options: ImportOptions) -> dict[str, str]:
    """Field of Utterance to the column it is read from: the one the person named, else the first of ALIASES.

    UserError: a column named that is not there; none for the audio or the text.
    """
    taken = {field: next((name for name in known if name in names), None) for field, known in ALIASES.items()}
    for field, name in options.columns.items():
        if name and name not in names:
            raise UserError(f"no column {name!r} for {field}{nearest(name, names)}")
        taken[field] = name or None
    for field in REQUIRED:
        if taken[field] is None:
            others = f"nor {', '.join(ALIASES[field][1:])}"
            raise UserError(
                f"no column {field!r} ({others}), there are: {shown(names)}; say which: --column {field}=NAME"
            )
    return {field: name for field, name in taken.items() if name is not None}


def utterance_of(
    row: Mapping[str, Any],
    taken: Mapping[str, str],
    home: Path,
    options: ImportOptions,
    key: str = "",
    part: str = "",
) -> Utterance:
    """`taken` columns become fields, all others meta; paths start at `home`. A null or empty value is a default.

    `key`, else one made from the audio's name and the cut, is for rows that say none; `part` is Utterance's.
    """
    values: dict[str, Any] = {field: row.get(name) for field, name in taken.items()}
    values = {field: value for field, value in values.items() if value not in (None, "")}
    meta = {**_meta(row), **{name: row[name] for name in row if name not in taken.values() and name != "meta"}}
    made = key or key_of_cut(str(values.get("audio", "")), values.get("start"), values.get("duration"))
    raw = str(values.get("key", made))
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


def key_of_cut(name: str, start: Any, duration: Any) -> str:
    """`dir/a.wav` as it is; its cut from 12.5 s for 2 s -> dir/a.wav-12500-14500 (milliseconds)."""
    name = name.lstrip("./")
    if not start or not isinstance(start, int | float) or not isinstance(duration, int | float | None):
        return name
    end = start + (duration or 0)
    if not abs(start) + abs(end) < MAX_SECONDS_NAMED:
        return name
    return f"{name}-{round(start * 1000)}" + ("" if duration is None else f"-{round(end * 1000)}")


def with_numbers(row: Mapping[str, str], taken: Mapping[str, str]) -> dict[str, Any]:
    """A row of a table that is text, its start and duration as numbers; UserError for what is none."""
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


assert set(ALIASES) | {"part", "meta"} == set(FIELDS)
