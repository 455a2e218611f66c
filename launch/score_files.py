"""What `slam-asr score --out` writes: hypotheses.jsonl and score.json, together, and never over another scoring."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decode.dataset import Hypothesis
    from decode.score import Score

HYPOTHESES, SCORE = "hypotheses.jsonl", "score.json"


def require_replaceable(args: argparse.Namespace, about: dict[str, Any]) -> None:
    """UserError if --out holds another scoring than `about`, and --overwrite is not given.

    The same one is of the same adapter (its path or its weights), shards (path or content) and options: a command that
    is repeated may replace what it wrote.
    """
    from data_prep.durable import strict_json
    from model.errors import UserError

    if args.out is None or args.overwrite:
        return
    there = [name for name in (HYPOTHESES, SCORE) if os.path.lexists(args.out / name)]
    if not there:
        return
    try:
        stated = strict_json((args.out / SCORE).read_bytes())
        stated = stated if isinstance(stated, dict) else {}
    except (OSError, ValueError):
        stated = {}
    wanted = about | {"normaliser": args.normaliser, "group": args.by}
    differs = {name for name in wanted.keys() - {"step"} if stated.get(name) != wanted[name]}
    for alike in ({"adapter", "weights_sha256"}, {"shards", "shards_digest"}):
        differs = differs if alike <= differs else differs - alike
    names = sorted(differs - {"weights_sha256", "shards_digest"})
    if names:
        other = ", ".join(f"{name} {stated.get(name)!r}, not {wanted[name]!r}" for name in names)
        other = other if stated else f"{SCORE} does not say of what"
        raise UserError(
            f"{args.out} holds {' and '.join(there)} of another scoring ({other}); give another --out, or --overwrite"
        )


def write(
    args: argparse.Namespace,
    rows: list[Hypothesis],
    meta: list[dict[str, Any]],
    scores: list[Score],
    about: dict[str, Any],
) -> None:
    """Both files, or neither: score.json is on the disk when hypotheses.jsonl gets its name."""
    from data_prep.durable import canonical_json, replacing
    from decode.dataset import write_hypotheses
    from decode.score import ALIGNER
    from model.errors import TransientError

    extra = [
        {"speaker": row.get("speaker", ""), "words": score.words, "errors": score.errors}
        for row, score in zip(meta, scores, strict=True)
    ]
    notes = dict(sorted(Counter(row.note for row in rows if row.note).items()))
    document = {**about, "normaliser": args.normaliser, "aligner": ALIGNER, "group": args.by, "notes": notes}
    try:
        with replacing(args.out / SCORE) as file:
            file.write(canonical_json(document, indent=1) + b"\n")
            file.flush()
            os.fsync(file.fileno())
            write_hypotheses(args.out / HYPOTHESES, rows, extra)
    except OSError as error:
        reason = error.strerror or str(error)
        raise TransientError(
            f"cannot write {SCORE} and {HYPOTHESES} into {str(args.out)!r}: {reason}; what was there is unchanged, "
            "make room or name another --out"
        ) from None
    print(f"slam-asr: wrote {args.out / HYPOTHESES} and {args.out / SCORE}", file=sys.stderr)


def make_folder(out: Path) -> None:
    """Before the work, so that a path that cannot be is known before it."""
    from model.errors import UserError

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make --out {str(out)!r}: {error.strerror}; name another folder") from None
