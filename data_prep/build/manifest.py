"""A corpus to an utterance manifest: headers and transcripts are checked, nothing is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.addresses import without_secrets
from data_prep.build.assign import unique
from data_prep.build.prepare import stated_seconds
from data_prep.durable import strict_json
from data_prep.figures import counted
from data_prep.progress import Progress
from data_prep.refusals import Note, Refused, by_reason, reasons_of, require_few, write_notes
from data_prep.utterance import MAX_LINE_BYTES, Utterance, write_jsonl
from model.errors import UserError, require_fraction

SHOWN = 3  # utterances in the report
THREADS = 16  # a header on a network disk takes milliseconds, nearly all of them waiting
AHEAD = 8 * THREADS  # utterances whose headers are read at a time
HOPELESS = 1000  # this many bad ones and not one good: something is wrong with the whole
REQUIRED = {"key", "audio", "text"}  # fields of each row of an utterance manifest


@dataclass
class ImportReport:
    """Counts of an import; filled while it runs."""

    read: int = 0
    kept: int = 0
    seconds_by_language: dict[str, float] = field(default_factory=dict)
    """Of those kept."""
    notes: list[Note] = field(default_factory=list)
    """Of those dropped."""
    first: list[tuple[Utterance, float]] = field(default_factory=list)
    """With their seconds."""

    @property
    def seconds(self) -> float:
        return sum(self.seconds_by_language.values())

    @property
    def dropped(self) -> Counter[str]:
        return Counter(by_reason(self.notes))

    def add(self, utterance: Utterance, seconds: float) -> None:
        self.kept += 1
        by_language = self.seconds_by_language
        by_language[utterance.language] = by_language.get(utterance.language, 0.0) + seconds
        if len(self.first) < SHOWN:
            self.first.append((utterance, seconds))


def import_corpus(
    utterances: Iterable[Utterance],
    out: Path,
    max_bad: float = 0.01,
    allow_pipes: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Writes usable utterances to `out`, in their order, the others with reasons to `<out>.quarantine.jsonl`.

    UserError, and no manifest: a repeated key, nothing kept, a larger fraction than `max_bad` dropped, an `out` that
    exists and is no manifest as this writes it.
    """
    require_fraction("max_bad", max_bad)
    _require_manifest(out)
    corpus = unique(utterances)  # before any recording is looked at
    report, quarantine = ImportReport(), out.with_name(f"{out.stem}.quarantine.jsonl")
    out.parent.mkdir(parents=True, exist_ok=True)

    def kept(progress: Progress) -> Iterator[Utterance]:
        for utterance, seconds in _with_seconds(corpus, allow_pipes):
            report.read += 1
            progress.advance()
            if not isinstance(seconds, Refused):
                report.add(utterance, seconds)
                yield utterance
                continue
            note = {"key": utterance.key, "audio": without_secrets(utterance.audio)}
            report.notes.append(note | {"reason": seconds.reason, "message": str(seconds)})
            if not report.kept and report.read == HOPELESS:
                break
        _require_usable(report, len(corpus), max_bad, quarantine)
        write_notes(quarantine, report.notes)  # before the manifest is published: a full disk leaves none without it

    try:
        with progress or Progress(len(corpus), label="import") as progress:
            write_jsonl(out, kept(progress))
    except (UserError, KeyboardInterrupt):
        write_notes(quarantine, report.notes)
        raise
    return report


def _require_manifest(out: Path) -> None:
    """UserError for a file that would be replaced and is no utterance manifest, by its first line."""
    try:
        with open(out, "rb") as file:
            line = file.readline(MAX_LINE_BYTES)
        row = strict_json(line) if line else dict.fromkeys(REQUIRED)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}; give the path of a file") from None
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or not set(row) >= REQUIRED:
        raise UserError(f"{out} is there already and is no utterance manifest; give another name")


def _with_seconds(corpus: list[Utterance], allow_pipes: bool) -> Iterator[tuple[Utterance, float | Refused]]:
    """Each utterance with its length by the header, or why it cannot be used."""

    def measured(utterance: Utterance) -> float | Refused:
        try:
            return stated_seconds(utterance, allow_pipes)
        except Refused as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(corpus), AHEAD):
            chunk = corpus[first : first + AHEAD]
            yield from zip(chunk, pool.map(measured, chunk), strict=True)


def _require_usable(report: ImportReport, total: int, max_bad: float, quarantine: Path) -> None:
    if not report.kept:
        what = f"none of {counted(report.read, 'utterance')} can be used"
        if report.read < total:
            what = f"stopped after {report.read:,} bad utterances and not a good one"
        moved = ": do its paths start elsewhere? --audio-root" if "missing-audio" in report.dropped else ""
        raise UserError(f"{what} ({reasons_of(report.notes)}{moved}); see {quarantine}")
    require_few(report.notes, report.read, max_bad, quarantine)
