"""What is scored: the utterances, their groups, and whether --out may be written to."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from model.errors import UserError, hint

if TYPE_CHECKING:
    from decode.dataset import Hypothesis

    ScoredRows = tuple[list[Hypothesis], list[dict[str, Any]], dict[str, Any]]
    """Hypotheses, their metadata, and what score.json says of their origin."""

HYPOTHESES, SCORE = "results.jsonl", "score.json"


def groups(field: str, meta: list[dict[str, Any]]) -> list[str]:
    """The field's value for each utterance: a field beside the text, else one of the corpus's own in `meta`."""
    rows = [{**row.get("meta", {}), **{name: value for name, value in row.items() if name != "meta"}} for row in meta]
    if not any(row.get(field) for row in rows):
        fields = {name for row in rows for name, value in row.items() if value}
        known = sorted(fields - {"text", "reference", "hypothesis", "seconds", "words", "errors"})
        there = f"there is {', '.join(known) or 'none'}"
        raise UserError(f"no utterance has a field {field!r}{hint(field, known)}; {there}")
    return [str(row.get(field) or "(none)") for row in rows]


def require_replaceable(args: argparse.Namespace, about: dict[str, Any]) -> None:
    """UserError if --out holds another scoring than `about`, and --overwrite is not given. The same scoring is of the
    same adapter (path or weights), shards (path or content) and options."""
    from data_prep.durable import strict_json

    if args.out is None or args.overwrite:
        return
    present = [name for name in (HYPOTHESES, SCORE) if os.path.lexists(args.out / name)]
    try:
        stated = strict_json((args.out / SCORE).read_bytes())
    except (OSError, ValueError):
        stated = None
    stated = stated if isinstance(stated, dict) else {}
    wanted = about | {"normaliser": args.normaliser, "group": args.by}
    differs = {name for name in wanted.keys() - {"step"} if stated.get(name) != wanted[name]}
    for alike in ({"adapter", "weights_sha256"}, {"shards", "shards_digest"}):
        differs = differs if alike <= differs else differs - alike
    names = sorted(differs - {"weights_sha256", "shards_digest"})
    if present and names:
        other = ", ".join(f"{name} {stated.get(name)!r}, not {wanted[name]!r}" for name in names)
        scoring = f"of another scoring ({other if stated else f'{SCORE} does not say of what'})"
        raise UserError(f"{args.out} holds {' and '.join(present)} {scoring}; give another --out, or --overwrite")
