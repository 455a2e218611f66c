"""A corpus to an utterance manifest: headers and transcripts are checked, nothing is decoded."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data_prep.addresses import without_secrets
from data_prep.build.assign import in_threads, unique
from data_prep.build.prepare import header_of
from data_prep.durable import strict_json
from data_prep.progress import Progress
from data_prep.refusals import Note, Refused, by_reason, reasons_of, require_few, write_notes
from data_prep.text import tidy_text
from data_prep.utterance import MAX_LINE_BYTES, Utterance, write_jsonl
from model.errors import UserError, counted, require_fraction

SHOWN = 3  # utterances in the report
MAX_BAD_AT_START = 1000  # with none usable among them, the import stops
REQUIRED = {"key", "audio", "text"}  # fields of each row of an utterance manifest


@dataclass(frozen=True)
class ImportReport:
    """Counts of an import."""

    read: int
    kept: int
    dropped: dict[str, int]  # number by reason
    seconds_by_language: dict[str, float]  # of those kept
    first: list[tuple[Utterance, float]]  # some of those kept, with their seconds


def import_corpus(
    utterances: Iterable[Utterance],
    out: Path,
    max_bad: float = 0.01,
    allow_pipes: bool = False,
    allow_empty: bool = False,
) -> ImportReport:
    """Writes usable utterances to `out`, in their order, the others with reasons to `<out>.quarantine.jsonl`.

    UserError, and no manifest: a repeated key, nothing kept, a larger fraction than `max_bad` dropped, an `out` that
    exists and is no manifest as this writes it."""
    require_fraction("max_bad", max_bad)
    _require_manifest(out)
    corpus = unique(utterances)  # before any recording is looked at
    quarantine = out.with_name(f"{out.stem}.quarantine.jsonl")
    out.parent.mkdir(parents=True, exist_ok=True)
    kept: list[tuple[Utterance, float]] = []
    notes: list[Note] = []
    by_language: dict[str, float] = {}

    def seconds_of(utterance: Utterance) -> float | Refused:
        """By the header."""
        try:
            tidy_text(utterance.text, allow_empty)
            return header_of(utterance, allow_pipes)[0]
        except Refused as error:
            return error

    with Progress(len(corpus), label="import") as progress:
        for utterance, seconds in zip(corpus, in_threads(seconds_of, corpus), strict=False):
            progress.advance()
            if not isinstance(seconds, Refused):
                kept.append((utterance, seconds))
                by_language[utterance.language] = by_language.get(utterance.language, 0.0) + seconds
                continue
            note = {"key": utterance.key, "audio": without_secrets(utterance.audio), "reason": seconds.reason}
            notes.append(note | {"message": str(seconds)})
            if not kept and len(notes) == MAX_BAD_AT_START:
                break
    write_notes(quarantine, notes)  # before the manifest: a full disk leaves none without it
    if not kept:
        what = f"none of {counted(len(notes), 'utterance')} can be used"
        if len(notes) < len(corpus):
            what = f"stopped after {len(notes):,} bad utterances and not a good one"
        moved = ": do its paths start elsewhere? --audio-root" if "missing-audio" in by_reason(notes) else ""
        raise UserError(f"{what} ({reasons_of(notes)}{moved}); see {quarantine}")
    require_few(notes, len(corpus), max_bad, quarantine)
    write_jsonl(out, (utterance for utterance, _ in kept))
    return ImportReport(len(corpus), len(kept), by_reason(notes), by_language, kept[:SHOWN])


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
