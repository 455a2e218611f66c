"""report.html: what decode.report needs besides the scoring itself, from the run and the shards that it is of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from model.errors import UserError


def curves_of(adapter: Path) -> list[dict[str, Any]] | None:
    """The records of metrics.jsonl of the run that an adapter is of, if that is where it lies."""
    from data_prep.durable import read_records

    for folder in (adapter, *adapter.absolute().parents[:2]):
        if records := read_records(folder / "metrics.jsonl"):
            return records
    return None


def clips_of(shards: str | None) -> Callable[[str], bytes | None]:
    """Key to the bytes of a recording as the shards have them. UserError where there are no recordings."""
    from data_prep.shards.opening import read_index
    from data_prep.shards.tar import read_sample

    if shards is None:
        raise UserError("--audio needs shards, and these are texts from files; score ADAPTER SHARDS, or leave it out")
    index = read_index(shards)
    if index.kind != "audio":
        raise UserError(f"--audio needs recordings, and {shards!r} has cached features; give the shards they are of")
    place = {key: i for i, key in enumerate(index.key)}
    return lambda key: bytes(read_sample(index, place[key]).media) if key in place else None


def page(
    rows: list[dict[str, Any]],
    score: Mapping[str, Any],
    other: tuple[list[dict[str, Any]], dict[str, Any]] | None,
    clips: Callable[[str], bytes | None] | None,
) -> bytes:
    """The page of rows as in results.jsonl and of score.json, beside another system's if there is one."""
    from decode.report.page import render

    curves = curves_of(Path(score["adapter"])) if score.get("adapter") else None
    return render(rows, score, other, curves, clips).encode()
