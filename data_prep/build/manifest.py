"""A corpus to an utterance manifest: what can be seen without decoding is looked at, the rest is the build's."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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

SHOWN = 3  # utterances, for the eye
THREADS = 16  # a header on a network disk takes milliseconds, nearly all of them waiting
HOPELESS = 1000  # this many bad ones and not one good: something is wrong with the whole
OURS = {"key", "audio", "text"}  # fields that each row of an utterance manifest has

Probed = tuple[Utterance, Future[float]]
"""With its length in seconds, or Refused."""


@dataclass
class ImportReport:
    """What an import did; filled while it runs."""

    read: int = 0
    kept: int = 0
    seconds_by_language: dict[str, float] = field(default_factory=dict)
    """Of those kept."""
    dropped: Counter[str] = field(default_factory=Counter)
    first: list[tuple[Utterance, float]] = field(default_factory=list)
    """With their seconds."""

    @property
    def seconds(self) -> float:
        return sum(self.seconds_by_language.values())


def import_corpus(
    utterances: Iterable[Utterance],
    out: Path,
    max_bad: float = 0.01,
    allow_pipes: bool = False,
    threads: int = THREADS,
    progress: Progress | None = None,
) -> ImportReport:
    """Writes those that can be used to `out`, in their order, the others with reasons to `<out>.quarantine.jsonl`.

    UserError, and no manifest: a key twice, nothing kept, a larger fraction than `max_bad` dropped, an `out` that is
    there and no manifest as this writes it.
    """
    require_fraction("max_bad", max_bad)
    _require_ours(out)
    report = ImportReport()
    notes: list[Note] = []
    quarantine = out.with_name(f"{out.stem}.quarantine.jsonl")
    listed = unique(utterances)  # before any recording is looked at
    out.parent.mkdir(parents=True, exist_ok=True)
    probed = _probed(listed, allow_pipes, threads)
    try:
        with progress or Progress(len(listed), label="import") as progress:
            write_jsonl(out, _kept(probed, report, notes, progress, max_bad, quarantine, len(listed)))
    except (UserError, KeyboardInterrupt):
        write_notes(quarantine, notes)
        raise
    return report


def _require_ours(out: Path) -> None:
    """UserError for a file that this would replace and did not write, as far as its first line shows."""
    try:
        with open(out, "rb") as file:
            line = file.readline(MAX_LINE_BYTES)
        row = strict_json(line) if line else dict.fromkeys(OURS)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}; give the path of a file") from None
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or not set(row) >= OURS:
        raise UserError(f"{out} is there already and is no utterance manifest; give another name")


def _probed(utterances: list[Utterance], allow_pipes: bool, threads: int) -> Iterator[Probed]:
    """In their order, so many ahead as keep the threads at work."""
    waiting: deque[Probed] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for utterance in utterances:
            waiting.append((utterance, pool.submit(stated_seconds, utterance, allow_pipes)))
            if len(waiting) > 8 * threads:
                yield waiting.popleft()
        yield from waiting
    finally:
        pool.shutdown(cancel_futures=True)


def _kept(
    probed: Iterator[Probed],
    report: ImportReport,
    notes: list[Note],
    progress: Progress,
    max_bad: float,
    quarantine: Path,
    total: int,
) -> Iterator[Utterance]:
    for utterance, stated in probed:
        report.read += 1
        progress.advance()
        try:
            seconds = stated.result()
        except Refused as error:
            report.dropped[error.reason] += 1
            note = {
                "key": utterance.key,
                "audio": without_secrets(utterance.audio),
                "reason": error.reason,
                "message": str(error),
            }
            notes.append(note)
            if not report.kept and report.read == HOPELESS:
                break
            continue
        report.kept += 1
        so_far = report.seconds_by_language
        so_far[utterance.language] = so_far.get(utterance.language, 0.0) + seconds
        report.first += [(utterance, seconds)] if len(report.first) < SHOWN else []
        yield utterance
    if not report.kept:
        what = f"none of {counted(report.read, 'utterance')} can be used"
        if report.read < total:
            what = f"stopped after {report.read:,} bad utterances and not a good one"
        raise UserError(f"{what} ({_reasons(notes)}); see {quarantine}")
    require_few(notes, report.read, max_bad, quarantine)
    write_notes(quarantine, notes)  # before the manifest is published: a disk that fills up leaves none without it


def _reasons(notes: list[Note]) -> str:
    listed = reasons_of(notes)
    is_missing = "missing-audio" in by_reason(notes)
    return f"{listed}: do its paths start elsewhere? --audio-root" if is_missing else listed
