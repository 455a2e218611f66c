"""A JSONL manifest: our own fields, or NeMo's, or what others call the same things.

| ours | also read as |
|---|---|
| audio | audio_filepath (NeMo), audio_path, path, wav |
| key | utt_id, id; else made from the audio's name, and the cut's place where there is one |
| text | transcript, sentence |
| start, duration | offset (NeMo) |
| language, speaker | lang; speaker_id |

Relative paths start at the manifest's folder. All other fields are kept in meta.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.importers.options import ImportOptions
from data_prep.utterance import FIELDS, Utterance, read_rows, resolve_audio, safe_key
from model.errors import UserError

ALIASES = {
    "audio": ("audio", "audio_filepath", "audio_path", "path", "wav"),
    "key": ("key", "utt_id", "id"),
    "text": ("text", "transcript", "sentence"),
    "start": ("start", "offset"),
    "duration": ("duration",),
    "language": ("language", "lang"),
    "speaker": ("speaker", "speaker_id"),
    "task": ("task",),
    "part": ("part",),
}

DEFAULTS = ImportOptions()


def is_jsonl(path: Path) -> bool:
    return path.is_file() and path.suffix in (".jsonl", ".json")


def import_jsonl(path: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """In the order of the lines; a null or empty transcript stays empty, for the build to count.

    UserError: no such file, no lines, a line that is no utterance, a relative path out of the folder unless
    `allow_outside`.
    """
    home, found = options.audio_root or path.parent, False
    for place, row in read_rows(path):
        found = True
        try:
            yield _utterance(row, home, options.allow_outside)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
    if not found:
        raise UserError(f"{path} has no lines; a manifest has one JSON object a line")


def _utterance(row: dict[str, Any], home: Path, allow_outside: bool) -> Utterance:
    taken = {field: next((name for name in names if name in row), None) for field, names in ALIASES.items()}
    for field in ("audio", "text"):
        if taken[field] is None:
            raise UserError(f"no field {field!r} (nor {', '.join(ALIASES[field][1:])})")
    values = {field: row[name] for field, name in taken.items() if name is not None and row[name] is not None}
    meta = {
        **_meta(row),
        **{name: value for name, value in row.items() if name not in taken.values() and name != "meta"},
    }
    raw = str(values.get("key") or _key_of_cut(values))
    values["key"] = safe_key(raw)
    if values["key"] != raw:
        meta["id"] = raw
    values["audio"] = resolve_audio(values.get("audio"), home, allow_outside)
    values["speaker"] = str(values.get("speaker", ""))
    return Utterance(**{"text": "", **values}, meta=meta)


def _meta(row: dict[str, Any]) -> dict[str, Any]:
    meta = row.get("meta", {})
    if not isinstance(meta, dict):
        raise UserError(f"meta is {meta!r}, it must be an object")
    return meta


def _key_of_cut(values: dict[str, Any]) -> str:
    """`dir/a.wav` -> dir_a_wav; its cut from 12.5 s for 2 s -> dir_a_wav-12500-14500 (milliseconds)."""
    name = str(values.get("audio", "")).lstrip("./")
    start, duration = values.get("start") or 0, values.get("duration")
    if not start or not isinstance(start, int | float) or not isinstance(duration, int | float | None):
        return name
    end = "" if duration is None else f"-{round((start + duration) * 1000)}"
    return f"{name}-{round(start * 1000)}{end}"


assert set(ALIASES) | {"meta"} == set(FIELDS)
