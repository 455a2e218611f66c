"""What came out of a run: whether a score is of its checkpoint, the word error rates together, what to type next."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.durable import write_durably
from data_prep.shards.opening import read_index
from launch.score_files import SCORE
from model.errors import UserError


def is_scored(run: Path, shards: Path, out: Path, by: str) -> bool:
    """Whether `out` holds the score of the checkpoint that scoring `run` would take, on these shards."""
    try:
        found = json.loads((out / SCORE).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    from model.weights import find_adapter, read_card

    try:
        card, digest = read_card(find_adapter(run)), read_index(shards).digest()
    except UserError:
        return False
    return (found.get("weights_sha256"), found.get("shards_digest"), found.get("group") or "") == (
        card.weights_sha256,
        digest,
        by,
    )


def summarise(out: Path, run: Path, scores: Mapping[str, Path], seconds: Mapping[str, float]) -> dict[str, Any]:
    """Writes `out`/summary.json: each score, the checkpoint, and the seconds of each stage of this start."""
    documents = {name: json.loads((folder / SCORE).read_text("utf-8")) for name, folder in scores.items()}
    one = next(iter(documents.values()))
    summary = {
        "scores": {name: {"all": document["all"], "by": document["by"]} for name, document in documents.items()},
        "step": one["step"],
        "weights_sha256": one["weights_sha256"],
        "run": str(run),
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
    }
    write_durably(out / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    return summary


def table(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of aligned text: the word error rate of each, and the number of its words."""
    rows = [("", "WER", "words", "utterances")]
    for name, score in scores.items():
        total = score["all"]
        rate = "-" if total["wer"] is None else f"{100 * total['wer']:.1f} %"
        rows.append((name, rate, f"{total['words']:,}", f"{total['utterances']:,}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def next_commands(run: Path, out: Path) -> Sequence[tuple[str, str]]:
    """What to type now, and what for."""
    return (
        (f"slam-asr transcribe {run} recording.wav", "what is said in a recording"),
        (f"slam-asr score {run} SHARDS --by speaker", "word errors on other shards"),
        (f"slam-asr export {run} {out / 'adapter'}", "the adapter alone, to share"),
    )
