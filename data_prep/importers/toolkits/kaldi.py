"""A Kaldi data directory: wav.scp, and as far as they are there segments, text, utt2spk, utt2lang, spk2gender ...

| file | becomes |
|---|---|
| wav.scp | audio: a path, `command |` (only with allow_pipes), or `file.ark:OFFSET` |
| segments | key, start, duration: cuts that are exact; without it each recording is an utterance |
| text | text; utterances without a line are counted and said, and left out |
| utt2spk, utt2lang, utt2task | speaker, language, task |
| utt2dur, reco2dur | nothing: the recordings themselves say it, and Kaldi cuts nothing by these either |
| spk2gender | meta["gender"] |
| utt2X | meta["X"] |
| utt2meta | as `prep export` writes it: a JSON object of what the other files cannot say |

Lines about utterances that have no audio are passed over, as fix_data_dir.sh does, but not in `text`: words without
sound come last and go on to the build, which counts them as missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from data_prep.durable import strict_json
from data_prep.importers.parsing.lines import Entry, read_keyed
from data_prep.importers.parsing.options import ImportOptions
from data_prep.importers.parsing.remarks import Without
from data_prep.importers.parsing.rxfilename import Recording, Recordings
from data_prep.utterance import Utterance, safe_key
from model.errors import UserError

DEFAULTS = ImportOptions()
SECONDS = re.compile(r"[+-]?(?:[0-9]{1,12}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(?:[eE][+-]?[0-9]{1,2})?")
FIELDS = {"utt2spk": "speaker", "utt2lang": "language", "utt2task": "task"}


def is_kaldi(path: Path) -> bool:
    return path.name == "wav.scp" or any((path / name).is_file() for name in ("wav.scp", "feats.scp"))


def import_kaldi(folder: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """In the order of segments, or of wav.scp. Relative paths start at the folder, or at `audio_root`.

    UserError, with file and line: no wav.scp, a key twice, a segment without its recording, a command unless allowed,
    an ark that does not hold what is said of it.
    """
    folder = folder.parent if folder.name == "wav.scp" else folder
    if not (folder / "wav.scp").is_file():
        what = "holds features, not audio" if (folder / "feats.scp").is_file() else "is no Kaldi data directory"
        raise UserError(f"{folder} {what}: it has no wav.scp; give the directory that the features were made from")
    recordings = read_keyed(folder / "wav.scp")
    segments = read_keyed(folder / "segments") if (folder / "segments").is_file() else None
    said = _Said(folder)
    utterances = recordings if segments is None else segments
    lines = folder / "text"
    silent = Without(f"recording or segment has no line in {lines}", f"recordings or segments have no line in {lines}")
    finder = Recordings(folder, options, ((key, entry.value) for key, entry in recordings.items()))
    found: dict[str, Recording] = {}  # a recording of many segments is looked for once
    for name, entry in utterances.items():
        if said.text and name not in said.text:
            silent.add(name)
            continue
        recording, cut = (name, {}) if segments is None else _segment(entry, recordings)
        place = recordings[recording]
        try:
            if recording not in found:
                found[recording] = finder.find(place.value)
        except UserError as error:
            raise UserError(f"{place.place}: {error}") from None
        try:
            yield said.utterance(name, found[recording], cut)
        except UserError as error:
            raise UserError(f"{entry.place}: {error}") from None
    source = folder / ("wav.scp" if segments is None else "segments")
    for name in said.text:
        if name not in utterances:
            part = f"fault:missing-audio:{source.name} has no {name}, which text names"
            yield said.utterance(name, Recording(str(source), part), {})
    silent.say()


class _Said:
    """What the tables say of utterances."""

    def __init__(self, folder: Path) -> None:
        paths = [path for path in sorted(folder.glob("utt2*")) if path.is_file() and path.name.isidentifier()]
        tables = {path.name: read_keyed(path) for path in paths}
        self.text = _optional(folder / "text")
        self.gender = _optional(folder / "spk2gender")
        tables.pop("utt2dur", None)
        self.exact = tables.pop("utt2meta", {})
        self.tables = tables

    def utterance(self, name: str, found: Recording, cut: dict[str, float]) -> Utterance:
        fields: dict[str, Any] = {"text": self.text[name].value if name in self.text else ""}
        meta: dict[str, Any] = {}
        for table, entries in self.tables.items():
            if name in entries:
                (fields if table in FIELDS else meta)[FIELDS.get(table, table[4:])] = entries[name].value
        speaker = fields.get("speaker", "")
        if speaker in self.gender:
            meta.setdefault("gender", self.gender[speaker].value)
        if safe_key(name) != name:
            meta["id"] = name
        if name in self.exact:
            fields, meta = self._exactly(self.exact[name], fields, meta)
        return Utterance(safe_key(name), found.audio, **{**fields, **cut}, part=found.part, meta=meta)

    def _exactly(
        self, entry: Entry, fields: dict[str, Any], meta: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The same with what utt2meta says instead."""
        try:
            row = strict_json(entry.value.encode())
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            return fields, {**meta, "meta": entry.value}  # a table of another's, of that name
        exact = {name: row[name] for name in ("text", *FIELDS.values()) if name in row}
        return {**fields, **exact}, row["meta"] if isinstance(row.get("meta"), dict) else meta


def _segment(entry: Entry, recordings: dict[str, Entry]) -> tuple[str, dict[str, float]]:
    """Recording, start and duration of a line of segments."""
    words = entry.value.split()
    if len(words) == 4 or (len(words) == 3 and words[0] not in recordings):
        what = f"channel {words[3]!r}" if len(words) == 4 else f"recording {words[0]!r}, which wav.scp has not"
        raise UserError(f"{entry.place}: a segment of {what}; give one with utterance, recording, start and end")
    if len(words) != 3:
        raise UserError(f"{entry.place}: {len(words) + 1} words, a segment has utterance, recording, start and end")
    start, end = (_decimal(entry, word) for word in words[1:])
    if end == -1:
        return words[0], {"start": float(start)}
    if end <= start:
        raise UserError(f"{entry.place}: a segment from {start} to {end} s; its end must come after its start")
    return words[0], {"start": float(start), "duration": float(end - start)}


def _decimal(entry: Entry, word: str) -> Decimal:
    """Exact, so that end minus start is what is meant, to the sample."""
    if not SECONDS.fullmatch(word):
        raise UserError(f"{entry.place}: {word[:40]!r} is no number of seconds")
    return Decimal(word)


def _optional(path: Path) -> dict[str, Entry]:
    return read_keyed(path) if path.is_file() else {}
