"""What `slam-asr score --out` writes: hypotheses.jsonl and score.json, together, and never over another scoring."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import TransientError, UserError

if TYPE_CHECKING:
    from decode.dataset import Hypothesis
    from decode.score import Score

HYPOTHESES, SCORE = "hypotheses.jsonl", "score.json"


def require_replaceable(args: argparse.Namespace, about: dict[str, Any]) -> None:
    """UserError if --out holds another scoring than `about`, and --overwrite is not given.

    The same scoring is of the same adapter (path or weights), shards (path or content) and options.
    """
    from data_prep.durable import strict_json

    if args.out is None or args.overwrite:
        return
    present = [name for name in (HYPOTHESES, SCORE) if os.path.lexists(args.out / name)]
    if not present:
        return
    try:
        stated = strict_json((args.out / SCORE).read_bytes())
    except (OSError, ValueError):
        stated = {}
    stated = stated if isinstance(stated, dict) else {}
    wanted = about | {"normaliser": args.normaliser, "group": args.by}
    differs = {name for name in wanted.keys() - {"step"} if stated.get(name) != wanted[name]}
    for alike in ({"adapter", "weights_sha256"}, {"shards", "shards_digest"}):
        differs = differs if alike <= differs else differs - alike
    names = sorted(differs - {"weights_sha256", "shards_digest"})
    if names:
        other = ", ".join(f"{name} {stated.get(name)!r}, not {wanted[name]!r}" for name in names)
        other = other if stated else f"{SCORE} does not say of what"
        raise UserError(
            f"{args.out} holds {' and '.join(present)} of another scoring ({other}); give another --out, or --overwrite"
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

    utterances = zip(meta, scores, strict=True)
    extra = [
        {"speaker": row.get("speaker", ""), "words": score.words, "errors": score.errors} for row, score in utterances
    ]
    document = {**about, "normaliser": args.normaliser, "aligner": ALIGNER, "group": args.by}
    try:
        with replacing(args.out / SCORE) as file:
            file.write(canonical_json(document, indent=1) + b"\n")
            file.flush()
            os.fsync(file.fileno())
            write_hypotheses(args.out / HYPOTHESES, rows, extra)
    except OSError as error:
        raise TransientError(
            f"cannot write {SCORE} and {HYPOTHESES} into {str(args.out)!r}: {error.strerror or error}; what was there "
            "is unchanged, make room or name another --out"
        ) from None
    print(f"slam-asr: wrote {args.out / HYPOTHESES} and {args.out / SCORE}", file=sys.stderr)


def make_folder(out: Path) -> None:
    """Before the work, so that a path that cannot be is refused first."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make --out {str(out)!r}: {error.strerror}; name another folder") from None
