"""A decoding on disk while it is unfinished: after an interruption it goes on, on any number of ranks.

    decoding/about.json          what is decoded and how; another decoding is refused
    decoding/rank-00000.jsonl    a line for each batch of that rank: {"rows": [...], "seconds": .., "audio_seconds": ..}

A line that a kill has torn is passed over, and its utterances are decoded again."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.durable import FULL, canonical_json, read_records, strict_json, write_durably
from decode.dataset import DecodedBatch, Hypothesis
from model.errors import TransientError, UserError

ABOUT = "about.json"


def begin(folder: Path, about: dict[str, Any], overwrite: bool = False) -> list[DecodedBatch]:
    """The batches there of the decoding that `about` (JSON) describes; `folder` is there, perhaps empty. UserError if
    they are of another decoding, unless they are to be overwritten; TransientError if the disk is full."""
    parts, about = sorted(folder.glob("rank-*.jsonl")), strict_json(canonical_json(about))
    if parts and (other := _differences(folder / ABOUT, about)):
        if not overwrite:
            advice = "give another --out, or --overwrite to begin anew"
            raise UserError(f"{folder} holds the beginning of another decoding ({other}); {advice}")
        for part in parts:
            part.unlink()
        parts = []
    with _writing(folder / ABOUT):
        write_durably(folder / ABOUT, canonical_json(about, indent=1) + b"\n")
    return [batch for part in parts for batch in map(_batch, read_records(part)) if batch is not None]


def keep(folder: Path, rank: int, batch: DecodedBatch) -> None:
    """Adds a batch to the rank's file. TransientError, in one line, if the disk does not take it."""
    path = folder / f"rank-{rank:05}.jsonl"
    with _writing(path), open(path, "ab") as file:
        file.write(b"\n" + canonical_json(asdict(batch)) + b"\n")  # the line before may be torn


def remove(folder: Path) -> None:
    """Once its rows are in the results. The parts go first: what is left after a kill is no other decoding."""
    for part in folder.glob("rank-*.jsonl"):
        part.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        todo = "make room" if error.errno in FULL else "look at its rights and disk"
        raise TransientError(f"cannot write {path}: {error.strerror}; {todo}, the same command goes on") from None


def _differences(path: Path, wanted: dict[str, Any]) -> str:
    """What about.json says otherwise, for a person; empty if it is the same."""
    try:
        stated = strict_json(path.read_bytes())
    except (OSError, ValueError):
        stated = None
    if not isinstance(stated, dict):
        return f"{ABOUT} does not say of what"
    names = sorted(name for name in wanted.keys() | stated.keys() if stated.get(name) != wanted.get(name))
    return ", ".join(f"{name} {_short(stated.get(name))}, not {_short(wanted.get(name))}" for name in names)


def _short(value: Any) -> str:
    """A digest by its first figures, a long value by its beginning."""
    text = repr(value[:12] if isinstance(value, str) and len(value) >= 64 else value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _batch(record: dict[str, Any]) -> DecodedBatch | None:
    """None for a record that is no batch."""
    try:
        return DecodedBatch(**{**record, "rows": [Hypothesis(**row) for row in record["rows"]]})
    except (KeyError, TypeError):
        return None
