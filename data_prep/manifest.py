"""A corpus to an utterance manifest: what can be seen without decoding is looked at, the rest is the build's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.prepare import Refused, stated_seconds
from data_prep.refusals import Note, require_few, write_notes
from data_prep.utterance import Utterance, write_jsonl
from model.errors import UserError

SHOWN = 3  # utterances, for the eye


@dataclass
class ImportReport:
    """What an import did; filled while it runs."""

    read: int = 0
    kept: int = 0
    seconds: float = 0.0
    dropped: Counter[str] = field(default_factory=Counter)
    first: list[Utterance] = field(default_factory=list)


def import_corpus(utterances: Iterable[Utterance], out: Path, max_bad: float = 0.01) -> ImportReport:
    """Writes those that can be used to `out`, and the others with their reasons to `<out>.bad.jsonl` beside it.

    UserError, and no manifest: a key twice, nothing kept, a larger fraction than `max_bad` dropped.
    """
    report = ImportReport()
    notes: list[Note] = []
    bad_path = out.with_name(f"{out.stem}.bad.jsonl")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_jsonl(out, _kept(utterances, report, notes, max_bad, bad_path))
    finally:
        write_notes(bad_path, notes)
    return report


def _kept(
    utterances: Iterable[Utterance], report: ImportReport, notes: list[Note], max_bad: float, bad_path: Path
) -> Iterator[Utterance]:
    seen: dict[str, str] = {}
    for utterance in utterances:
        report.read += 1
        if utterance.key in seen:
            raise UserError(f"key {utterance.key} is there twice: {seen[utterance.key]} and {utterance.audio}")
        seen[utterance.key] = utterance.audio
        try:
            report.seconds += stated_seconds(utterance)
        except Refused as error:
            report.dropped[error.reason] += 1
            note = {"key": utterance.key, "audio": utterance.audio, "reason": error.reason, "message": str(error)}
            notes.append(note)
            continue
        report.kept += 1
        report.first += [utterance] if len(report.first) < SHOWN else []
        yield utterance
    require_few(notes, report.read, max_bad, bad_path)
    if not report.kept:
        raise UserError(f"none of {report.read:,} utterances can be used; see {bad_path}")
