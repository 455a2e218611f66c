"""Checks before anything is scored: whether the groups exist, and whether --out may be written to."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from decode.scoring import RESULTS, SCORE
from model.errors import UserError

if TYPE_CHECKING:
    from decode.dataset import Hypothesis

    ScoredRows = tuple[list[Hypothesis], list[dict[str, Any]], dict[str, Any]]
    """Hypotheses, their metadata, and their origin for score.json, with the time taken as "decoding"."""

FILES = (SCORE, "nemo.jsonl", "ref.trn", "hyp.trn", "report.html", RESULTS)
PASSING = {"step", "decoding"}  # fields of the origin that may differ when the same command is repeated


def groups(fields: Sequence[str], meta: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """{field: value for each utterance}, from the metadata in shards. UserError for a field that no utterance has."""
    from decode.scoring.reading import Row, flat, known, seconds_of
    from decode.scoring.summary import groups as values

    rows = [Row("", "", "", seconds=seconds_of(one), fields=known(flat(one))) for one in meta]
    return {field: values(field, rows) for field in fields}


def require_replaceable(args: argparse.Namespace, about: Mapping[str, Any]) -> None:
    """UserError if --out holds another scoring than `about`, and --overwrite is not given. A scoring is the same if
    adapter (path or weights), shards (path or content) and options are."""
    from data_prep.durable import strict_json

    if args.out is None or args.overwrite:
        return
    present = [name for name in FILES if os.path.lexists(args.out / name)]
    try:
        stated = strict_json((args.out / SCORE).read_bytes())
    except (OSError, ValueError):
        stated = None
    stated = stated if isinstance(stated, dict) else {}
    by_name = {name: stated.get(name) for name in ("normalisers", "by")}
    found = stated | {name: sorted(each) if isinstance(each, dict) else [] for name, each in by_name.items()}
    wanted = {**about, "normaliser": args.normaliser[0], "normalisers": sorted(args.normaliser), "by": sorted(args.by)}
    differs = {name for name in wanted.keys() - PASSING if found.get(name) != wanted[name]}
    for alike in ({"adapter", "weights_sha256"}, {"shards", "shards_digest"}):
        differs = differs if alike <= differs else differs - alike
    names = sorted(differs - {"weights_sha256", "shards_digest"})
    if present and names:
        other = ", ".join(f"{name} {found.get(name)!r}, not {wanted[name]!r}" for name in names)
        scoring = f"of another scoring ({other if stated else f'{SCORE} cannot be read'})"
        raise UserError(f"{args.out} holds {' and '.join(present)} {scoring}; give another --out, or --overwrite")
