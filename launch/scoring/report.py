"""Inputs of report.html besides the scoring itself: the run's metrics and the recordings in the shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from model.errors import UserError


def curves_of(adapter: Path) -> list[dict[str, Any]] | None:
    """The records of metrics.jsonl of the run that contains the adapter; None if there is none."""
    from data_prep.durable import read_records

    for folder in (adapter, *adapter.absolute().parents[:2]):
        if records := read_records(folder / "metrics.jsonl"):
            return records
    return None


def clips_of(shards: str | None) -> Callable[[str], bytes | None]:
    """A function from key to the bytes of the recording in the shards, or None. UserError without recordings."""
    from data_prep.shards.opening import read_index
    from data_prep.shards.tar import read_sample

    if shards is None:
        raise UserError("--audio needs shards, but these texts come from files; score ADAPTER SHARDS, or leave it out")
    index = read_index(shards)
    if index.kind != "audio":
        raise UserError(
            f"--audio needs recordings, and {shards!r} holds cached features; give the shards they were made from"
        )
    place = {key: i for i, key in enumerate(index.key)}
    return lambda key: bytes(read_sample(index, place[key]).media) if key in place else None


def page(
    rows: list[dict[str, Any]],
    score: Mapping[str, Any],
    other: tuple[list[dict[str, Any]], dict[str, Any]] | None,
    clips: Callable[[str], bytes | None] | None,
) -> bytes:
    """The page for the rows of results.jsonl and for score.json, compared with another system's if given."""
    from decode.report.page import render

    curves = curves_of(Path(score["adapter"])) if score.get("adapter") else None
    return render(rows, score, other, curves, clips).encode()
