"""`slam-asr score`: the word error rate of an adapter on a shard directory, or of hypotheses that are there already."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import decoding

if TYPE_CHECKING:
    from decode.dataset import Hypothesis
    from decode.score import Score

NORMALISERS = ("plain", "verbatim")  # decode.score.NORMALISERS, which is too heavy to import for a help text


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        f"{parser.prog} ADAPTER SHARDS [options]\n       {parser.prog} --ref REF.jsonl --hyp HYP.jsonl [options]"
    )
    parser.description = "Count word errors: of every utterance of a shard directory, decoded now, or of given texts."
    parser.add_argument("adapter", metavar="ADAPTER", nargs="?", help="run, checkpoint or export folder")
    parser.add_argument("shards", metavar="SHARDS", nargs="?", help="directory made by prep build or prep features")
    parser.add_argument("--ref", type=Path, metavar="FILE", help='JSONL with "key" and "reference" or "text"')
    parser.add_argument("--hyp", type=Path, metavar="FILE", help='JSONL with "key" and "hypothesis" or "text"')
    parser.add_argument(
        "--normaliser",
        choices=NORMALISERS,
        default="plain",
        help="plain: case and punctuation do not count; verbatim: every character counts (default: plain)",
    )
    parser.add_argument(
        "--by", metavar="FIELD", help="a row for each value of this field: speaker, language ... (default: totals only)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write hypotheses.jsonl and score.json there (default: only print the table)",
    )
    decoding.add_flags(parser)


def run(args: argparse.Namespace) -> int:
    from decode.score import by_group, score_each, table

    if args.out is not None:
        _make_folder(args.out)
    heard, meta, about = _decoded(args) if _asks_to_decode(args) else _given(args)
    groups = _groups(args.by, meta) if args.by else []
    scores = score_each([one.reference for one in heard], [one.hypothesis for one in heard], args.normaliser)
    by = by_group(groups, scores) if args.by else {}
    total = by_group([""] * len(scores), scores)[""]
    print(table([*by.items(), ("all", total)], args.by or ""))
    _tell_notes(heard)
    if args.out is not None:
        about |= {"all": total.as_json(), "by": {name: one.as_json() for name, one in by.items()}}
        _write(args, heard, meta, scores, about)
    return 0


def _asks_to_decode(args: argparse.Namespace) -> bool:
    from model.errors import UserError

    forms = [bool(args.adapter and args.shards), bool(args.ref and args.hyp)]
    halves = [bool(args.adapter or args.shards), bool(args.ref or args.hyp)]
    if forms != halves or sum(forms) != 1:
        raise UserError("give ADAPTER and SHARDS, or --ref and --hyp; `slam-asr score --help` says more")
    return forms[0]


def _decoded(args: argparse.Namespace) -> tuple[list[Hypothesis], list[dict[str, Any]], dict[str, Any]]:
    """Hypotheses, metadata, and what score.json says about their origin."""
    from data_prep.index import read_index
    from decode.dataset import decode_dataset
    from model.weights import find_adapter, read_card, require_encoder

    index = read_index(args.shards)
    card = read_card(find_adapter(args.adapter))
    if index.kind == "features":
        cached = {name: value for name, value in index.fingerprint.items() if name in card.encoder}
        require_encoder(card, cached, args.shards)
    model = decoding.load(args, with_encoder=index.kind == "audio")
    heard, meta = decode_dataset(model, index, decoding.options(args), label="score")
    about = {"adapter": str(args.adapter), "step": card.step, "weights_sha256": card.weights_sha256}
    about |= {"shards": str(args.shards), "shards_digest": index.digest()}
    about |= {"beams": args.beams, "max_new_tokens": args.max_new_tokens}
    return heard, meta, about


def _given(args: argparse.Namespace) -> tuple[list[Hypothesis], list[dict[str, Any]], dict[str, Any]]:
    from decode.dataset import Hypothesis
    from decode.given import read_pairs

    rows = read_pairs(args.ref, args.hyp)
    heard = [Hypothesis(row.key, row.reference, row.hypothesis) for row in rows]
    return heard, [row.fields for row in rows], {"references": str(args.ref), "hypotheses": str(args.hyp)}


def _groups(field: str, meta: list[dict[str, Any]]) -> list[str]:
    """The field's value for each utterance, looked for beside the text first, then in the corpus's own fields."""
    from model.errors import UserError

    rows = [{**row.get("meta", {}), **{name: value for name, value in row.items() if name != "meta"}} for row in meta]
    if not any(row.get(field) for row in rows):
        said = {name for row in rows for name, value in row.items() if value}
        known = sorted(said - {"text", "reference", "hypothesis", "seconds", "words", "errors"})
        raise UserError(f"no utterance has a field {field!r}; there is {', '.join(known) or 'none'}")
    return [str(row.get(field) or "(none)") for row in rows]


def _tell_notes(heard: list[Hypothesis]) -> None:
    for note, count in sorted(Counter(one.note for one in heard if one.note).items()):
        what = (
            "answers cut at their most tokens" if note == "cut" else f"utterances {note} to be heard, taken as silent"
        )
        first = next(one.key for one in heard if one.note == note)
        print(f"slam-asr: {count:,} {what} (the first is {first})", file=sys.stderr)


def _write(
    args: argparse.Namespace,
    heard: list[Hypothesis],
    meta: list[dict[str, Any]],
    scores: list[Score],
    about: dict[str, Any],
) -> None:
    from data_prep.durable import canonical_json, write_durably
    from decode.dataset import write_hypotheses
    from decode.score import ALIGNER

    extra = [
        {"speaker": row.get("speaker", ""), "words": one.words, "errors": one.errors}
        for row, one in zip(meta, scores, strict=True)
    ]
    write_hypotheses(args.out / "hypotheses.jsonl", heard, extra)
    notes = dict(sorted(Counter(one.note for one in heard if one.note).items()))
    document = {**about, "normaliser": args.normaliser, "aligner": ALIGNER, "group": args.by, "notes": notes}
    write_durably(args.out / "score.json", canonical_json(document, indent=1) + b"\n")
    print(f"slam-asr: wrote {args.out / 'hypotheses.jsonl'} and {args.out / 'score.json'}", file=sys.stderr)


def _make_folder(out: Path) -> None:
    """Before the work, so that a path that cannot be is known before it."""
    from model.errors import UserError

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make --out {str(out)!r}: {error.strerror}; name another folder") from None
