"""A Kaldi data directory: wav.scp, and as far as they exist segments, text, utt2spk, utt2lang, spk2gender ...

| file | becomes |
|---|---|
| wav.scp | audio: a path, `command |` (only with allow_pipes), or `file.ark:OFFSET` |
| segments | key, start, duration: cuts that are exact; without it each recording is an utterance |
| text | text; utterances without a line are counted and reported, and left out |
| utt2spk, utt2lang, utt2task | speaker, language, task |
| utt2dur, reco2dur | nothing: the recordings themselves have it, and Kaldi cuts nothing by these either |
| spk2gender | meta["gender"] |
| utt2X | meta["X"] |
| utt2meta | as `prep export` writes it: a JSON object of what the other files cannot hold |

Lines about utterances that have no audio are passed over, as fix_data_dir.sh does, but not in `text`: words without
sound come last and go on to the build, which counts them as missing."""

import re
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

from data_prep.importers.parsing.files import Entry, json_object, read_keyed
from data_prep.importers.parsing.importer import DEFAULTS, ImportOptions, Recording, at, report_unmatched
from data_prep.importers.parsing.rxfilename import Recordings
from data_prep.utterance import Utterance, safe_key
from model.errors import UserError

SECONDS = re.compile(r"[+-]?(?:[0-9]{1,12}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(?:[eE][+-]?[0-9]{1,2})?")
FIELDS = {"utt2spk": "speaker", "utt2lang": "language", "utt2task": "task"}


def is_kaldi(path: Path) -> bool:
    return path.name == "wav.scp" or any((path / name).is_file() for name in ("wav.scp", "feats.scp"))


def import_kaldi(folder: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """In the order of segments, or of wav.scp. Relative paths start at the folder, or at `audio_root`.

    UserError, with file and line: no wav.scp, a key twice, a segment without its recording, a command unless allowed,
    an ark that does not hold what is listed of it."""
    folder = folder.parent if folder.name == "wav.scp" else folder
    if not (folder / "wav.scp").is_file():
        what = "holds features, not audio" if (folder / "feats.scp").is_file() else "is no Kaldi data directory"
        raise UserError(f"{folder} {what}: it has no wav.scp; give the directory that the features were made from")
    recordings = read_keyed(folder / "wav.scp")
    source = folder / "segments" if (folder / "segments").is_file() else folder / "wav.scp"
    utterances = read_keyed(source)
    tables = _Tables(folder)
    unmatched: list[str] = []
    finder = Recordings(folder, options, ((key, entry.value) for key, entry in recordings.items()))
    located: dict[str, Recording] = {}  # a recording of many segments is looked for once
    for key, entry in utterances.items():
        if tables.text and key not in tables.text:
            unmatched.append(key)
            continue
        with at(entry.place):
            name, cut = _segment(entry.value, recordings) if source.name == "segments" else (key, {})
        with at(recordings[name].place):
            if name not in located:
                located[name] = finder.find(recordings[name].value)
        with at(entry.place):
            utterance = tables.utterance(key, located[name], cut)
        yield utterance
    for key in tables.text:
        if key not in utterances:
            part = f"fault:missing-audio:{source.name} has no {key}, which text names"
            yield tables.utterance(key, Recording(str(source), part), {})
    where = f"no line in {folder / 'text'}"
    report_unmatched(unmatched, f"recording or segment has {where}", f"recordings or segments have {where}")


class _Tables:
    """text, spk2gender and all utt2X: what they have of each utterance."""

    def __init__(self, folder: Path) -> None:
        paths = [path for path in sorted(folder.glob("utt2*")) if path.is_file() and path.name.isidentifier()]
        self._tables = {path.name: read_keyed(path) for path in paths}
        self.text = read_keyed(folder / "text") if (folder / "text").is_file() else {}
        self._gender = read_keyed(folder / "spk2gender") if (folder / "spk2gender").is_file() else {}
        self._tables.pop("utt2dur", None)
        self._exact = self._tables.pop("utt2meta", {})

    def utterance(self, key: str, recording: Recording, cut: dict[str, float]) -> Utterance:
        fields: dict[str, Any] = {"text": self.text[key].value if key in self.text else None}
        meta: dict[str, Any] = {}
        for table, entries in self._tables.items():
            if key in entries:
                (fields if table in FIELDS else meta)[FIELDS.get(table, table[4:])] = entries[key].value
        if fields.get("speaker") in self._gender:
            meta.setdefault("gender", self._gender[fields["speaker"]].value)
        if safe_key(key) != key:
            meta["id"] = key
        if key in self._exact:
            row = None
            with suppress(ValueError):
                row = json_object(self._exact[key].value.encode())
            if row is None:
                meta["meta"] = self._exact[key].value  # a table of another's, of that name
            else:
                fields |= {name: row[name] for name in ("text", *FIELDS.values()) if name in row}
                meta = row["meta"] if isinstance(row.get("meta"), dict) else meta
        return Utterance(safe_key(key), recording.audio, **{**fields, **cut}, part=recording.part, meta=meta)


def _segment(line: str, recordings: dict[str, Entry]) -> tuple[str, dict[str, float]]:
    """Recording, start and duration of a line of segments."""
    words = line.split()
    if len(words) == 4 or (len(words) == 3 and words[0] not in recordings):
        what = f"channel {words[3]!r}" if len(words) == 4 else f"recording {words[0]!r}, which wav.scp has not"
        raise UserError(f"a segment of {what}; give one with utterance, recording, start and end")
    if len(words) != 3:
        raise UserError(f"{len(words) + 1} words, a segment has utterance, recording, start and end")
    for word in words[1:]:
        if not SECONDS.fullmatch(word):
            raise UserError(f"{word[:40]!r} is no number of seconds")
    start, end = map(Decimal, words[1:])  # exact, so that end minus start is what is meant, to the sample
    if end == -1:
        return words[0], {"start": float(start)}
    if end <= start:
        raise UserError(f"a segment from {start} to {end} s; its end must come after its start")
    return words[0], {"start": float(start), "duration": float(end - start)}
