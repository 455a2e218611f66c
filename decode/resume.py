"""Keeps the finished batches of a decoding on disk, so that it can be resumed on any number of ranks.

    decoding/about.json          what is decoded and how; any other decoding is refused
    decoding/rank-00000.jsonl    one line per batch of that rank: {"rows": [...], "seconds": .., "audio_seconds": ..}

A line that was cut off by a kill is ignored, and its utterances are decoded again."""

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
    """The batches in `folder` of the decoding that `about` (JSON) describes; the folder exists, perhaps empty.
    UserError if it holds another decoding and `overwrite` is false; TransientError if the disk is full."""
    parts, about = sorted(folder.glob("rank-*.jsonl")), strict_json(canonical_json(about))
    if parts and (other := _differences(folder / ABOUT, about)):
        if not overwrite:
            advice = "give another --out, or --overwrite to start again"
            raise UserError(f"{folder} holds another, unfinished decoding ({other}); {advice}")
        for part in parts:
            part.unlink()
        parts = []
    with _writing(folder / ABOUT):
        write_durably(folder / ABOUT, canonical_json(about, indent=1) + b"\n")
    return [batch for part in parts for batch in map(_batch, read_records(part)) if batch is not None]


def keep(folder: Path, rank: int, batch: DecodedBatch) -> None:
    """Appends a batch to the rank's file. TransientError if it cannot be written."""
    path = folder / f"rank-{rank:05}.jsonl"
    with _writing(path), open(path, "ab") as file:
        file.write(b"\n" + canonical_json(asdict(batch)) + b"\n")  # the previous line may be cut off


def remove(folder: Path) -> None:
    """Deletes the folder once its rows are in the results. The parts go first: without them a leftover is never
    refused."""
    for part in folder.glob("rank-*.jsonl"):
        part.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        todo = "make room" if error.errno in FULL else "check its permissions and disk"
        raise TransientError(f"cannot write {path}: {error.strerror}; {todo}, then run the command again") from None


def _differences(path: Path, wanted: dict[str, Any]) -> str:
    """The differences between about.json and `wanted`, as text; empty if there are none."""
    try:
        stated = strict_json(path.read_bytes())
    except (OSError, ValueError):
        stated = None
    if not isinstance(stated, dict):
        return f"{ABOUT} cannot be read"
    names = sorted(name for name in wanted.keys() | stated.keys() if stated.get(name) != wanted.get(name))
    return ", ".join(f"{name} {_short(stated.get(name))}, not {_short(wanted.get(name))}" for name in names)


def _short(value: Any) -> str:
    """The repr of a value, a digest or a long value shortened."""
    text = repr(value[:12] if isinstance(value, str) and len(value) >= 64 else value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _batch(record: dict[str, Any]) -> DecodedBatch | None:
    """The batch of a record; None if it is not one."""
    try:
        return DecodedBatch(**{**record, "rows": [Hypothesis(**row) for row in record["rows"]]})
    except (KeyError, TypeError):
        return None
