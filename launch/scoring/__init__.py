"""`slam-asr score`: the word error rate of an adapter on a shard directory, or of hypotheses that exist already.

--out gets results.jsonl and score.json, together, and never over another scoring."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import decoding
from launch.scoring.decoded import RANKS, decoded, forget
from launch.scoring.rows import HYPOTHESES, SCORE, groups, require_replaceable
from model.errors import TransientError, UserError, counted

if TYPE_CHECKING:
    from decode.dataset import Hypothesis
    from decode.scoring.counts import Score
    from launch.scoring.rows import ScoredRows

NORMALISERS = ("plain", "verbatim")  # decode.scoring.counts.NORMALISERS, which is too slow to import for a help text


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        f"{parser.prog} ADAPTER SHARDS [options]\n       {parser.prog} --ref REF.jsonl --hyp HYP.jsonl [options]"
    )
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, RANKS
    parser.description = "Count word errors: of every utterance of a shard directory, decoded now, or of given texts."
    add = parser.add_argument
    add("adapter", metavar="ADAPTER", nargs="?", help="run, checkpoint or export folder")
    add("shards", metavar="SHARDS", nargs="?", help="directory made by prep build or prep features")
    add("--ref", type=Path, metavar="FILE", help='JSONL with "key" and "reference" or "text"')
    add("--hyp", type=Path, metavar="FILE", help='JSONL with "key" and "hypothesis" or "text"')
    counting = "plain: case and punctuation do not count; verbatim: every character counts (default: plain)"
    add("--normaliser", choices=NORMALISERS, default="plain", help=counting)
    add("--by", metavar="FIELD", help="a row for each value of a field: speaker, language ... (default: totals only)")
    out = f"write {HYPOTHESES} and {SCORE} there; the same scoring may be repeated (default: only print the table)"
    add("--out", type=Path, metavar="DIR", help=out)
    add("--overwrite", action="store_true", help="replace another scoring in --out (default: refuse)")
    decoding.add_flags(parser)


def run(args: argparse.Namespace) -> int:
    from decode.scoring.counts import Score, by_group, score_each, table

    if args.out is not None:
        try:
            args.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make --out {str(args.out)!r}: {error.strerror}; name another folder") from None
    decodes = _wants_decoding(args)
    rows, meta, about = (decoded if decodes else _given)(args)
    scores = score_each([row.reference for row in rows], [row.hypothesis for row in rows], args.normaliser)
    by, total = by_group(groups(args.by, meta), scores) if args.by else {}, sum(scores, Score())
    print(table([*by.items(), ("all", total)], args.by or ""))
    notes = {note: [row.key for row in rows if row.note == note] for note in sorted({row.note for row in rows} - {""})}
    for note, keys in notes.items():
        words = note.replace("-", " ")
        what, then = counted(len(keys), f"utterance {words}", f"utterances {words}"), "to transcribe, scored as empty"
        if note == "cut":
            what, then = counted(len(keys), "answer"), "cut at the bound on tokens (--max-new-tokens)"
        print(f"slam-asr: {what} {then} (the first is {keys[0]})", file=sys.stderr)
    if args.out is not None:
        about |= {"all": total.as_json(), "by": {name: score.as_json() for name, score in by.items()}}
        about["notes"] = {note: len(keys) for note, keys in notes.items()}
        _write(args, rows, meta, scores, about)
        if decodes:
            forget(args.out)
    return 0


def _wants_decoding(args: argparse.Namespace) -> bool:
    forms = [bool(args.adapter and args.shards), bool(args.ref and args.hyp)]
    halves = [bool(args.adapter or args.shards), bool(args.ref or args.hyp)]
    if forms != halves or sum(forms) != 1:
        raise UserError("give ADAPTER and SHARDS, or --ref and --hyp; `slam-asr score --help` says more")
    return forms[0]


def _given(args: argparse.Namespace) -> ScoredRows:
    from decode.scoring.counts import read_pairs

    rows, fields = read_pairs(args.ref, args.hyp)
    about = {"references": str(args.ref), "hypotheses": str(args.hyp)}
    require_replaceable(args, about)
    return rows, fields, about


def _write(
    args: argparse.Namespace,
    rows: list[Hypothesis],
    meta: list[dict[str, Any]],
    scores: list[Score],
    about: dict[str, Any],
) -> None:
    """Both files, or neither: score.json is on the disk when results.jsonl gets its name."""
    from data_prep.durable import canonical_json, replacing
    from decode.dataset import write_hypotheses
    from decode.scoring.counts import ALIGNER

    counts = [{"words": score.words, "errors": score.errors} for score in scores]
    extra = [{"speaker": row.get("speaker", "")} | count for row, count in zip(meta, counts, strict=True)]
    document = {**about, "normaliser": args.normaliser, "aligner": ALIGNER, "group": args.by}
    try:
        with replacing(args.out / SCORE) as file:
            file.write(canonical_json(document, indent=1) + b"\n")
            file.flush()
            os.fsync(file.fileno())
            write_hypotheses(args.out / HYPOTHESES, rows, extra)
    except OSError as error:
        failed = f"cannot write {SCORE} and {HYPOTHESES} into {str(args.out)!r}: {error.strerror or error}"
        raise TransientError(f"{failed}; what was there is unchanged, make room or name another --out") from None
    print(f"slam-asr: wrote {args.out / HYPOTHESES} and {args.out / SCORE}", file=sys.stderr)
