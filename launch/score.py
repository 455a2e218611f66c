"""`slam-asr score`: the word error rate of an adapter on a shard directory, or of hypotheses that exist already.

--out gets hypotheses.jsonl and score.json, together, and never over another scoring."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import decoding
from model.errors import TransientError, UserError, counted, hint

if TYPE_CHECKING:
    from data_prep.shards.index import ShardIndex
    from decode.dataset import Hypothesis
    from decode.score import Score
    from model.weights import AdapterCard

    Rows = tuple[list[Hypothesis], list[dict[str, Any]], dict[str, Any]]
    """Hypotheses, their metadata, and what score.json says of their origin."""

HYPOTHESES, SCORE = "hypotheses.jsonl", "score.json"
NORMALISERS = ("plain", "verbatim")  # decode.score.NORMALISERS, which is too slow to import for a help text


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        f"{parser.prog} ADAPTER SHARDS [options]\n       {parser.prog} --ref REF.jsonl --hyp HYP.jsonl [options]"
    )
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
    from decode.score import Score, by_group, score_each, table

    if args.out is not None:
        try:
            args.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make --out {str(args.out)!r}: {error.strerror}; name another folder") from None
    rows, meta, about = (_decoded if _wants_decoding(args) else _given)(args)
    scores = score_each([row.reference for row in rows], [row.hypothesis for row in rows], args.normaliser)
    by, total = by_group(_groups(args.by, meta), scores) if args.by else {}, sum(scores, Score())
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
    return 0


def _wants_decoding(args: argparse.Namespace) -> bool:
    forms = [bool(args.adapter and args.shards), bool(args.ref and args.hyp)]
    halves = [bool(args.adapter or args.shards), bool(args.ref or args.hyp)]
    if forms != halves or sum(forms) != 1:
        raise UserError("give ADAPTER and SHARDS, or --ref and --hyp; `slam-asr score --help` says more")
    return forms[0]


def _decoded(args: argparse.Namespace) -> Rows:
    """Of an adapter and shards. What can be refused is refused before decoding."""
    from data_prep.shards.opening import read_index
    from data_prep.shards.tar import read_meta
    from decode.dataset import decode_dataset
    from model.weights import describe, find_adapter, read_card, require_encoder

    if describe(Path(args.shards)) == "an adapter":
        swapped = describe(Path(args.adapter)) == "shards"
        todo = "write ADAPTER first, then SHARDS" if swapped else "give a directory that `slam-asr prep build` made"
        raise UserError(f"{args.shards!r} holds an adapter, not shards; {todo}")
    card = read_card(find_adapter(args.adapter))
    index = read_index(args.shards)
    if index.kind == "features":
        cached = {name: value for name, value in index.fingerprint.items() if name in card.encoder}
        require_encoder(card, cached, args.shards)
        if args.encoder:
            _require_same_encoder(args, index, card)
    about = {"adapter": str(args.adapter), "step": card.step, "weights_sha256": card.digest}
    about |= {"shards": str(args.shards), "shards_digest": index.digest()}
    about |= {"beams": args.beams, "max_new_tokens": args.max_new_tokens}
    _require_replaceable(args, about)
    meta = [read_meta(index, i) for i in range(len(index))]
    if args.by and meta:
        _groups(args.by, meta)
    model = decoding.load(args, with_encoder=index.kind == "audio")
    return decode_dataset(model, index, decoding.options(args), label="score"), meta, about


def _require_same_encoder(args: argparse.Namespace, index: ShardIndex, card: AdapterCard) -> None:
    """UserError if the --encoder given for features, which need none, is not the adapter's."""
    from model.encoders import load_encoder
    from model.loading import files_digest
    from model.weights import require_encoder

    files = index.totals.get("encoder_files")
    if not files or files != files_digest(args.encoder):
        dtype, layer, window = args.encoder_dtype or args.dtype, card.encoder["layer"], card.encoder.get("window")
        encoder = load_encoder(args.encoder, layer, dtype, "cpu", args.trust_remote_code, window)
        require_encoder(card, encoder.fingerprint(), args.encoder)


def _given(args: argparse.Namespace) -> Rows:
    from decode.score import read_pairs

    rows, fields = read_pairs(args.ref, args.hyp)
    about = {"references": str(args.ref), "hypotheses": str(args.hyp)}
    _require_replaceable(args, about)
    return rows, fields, about


def _groups(field: str, meta: list[dict[str, Any]]) -> list[str]:
    """The field's value for each utterance: a field beside the text, else one of the corpus's own in `meta`."""
    rows = [{**row.get("meta", {}), **{name: value for name, value in row.items() if name != "meta"}} for row in meta]
    if not any(row.get(field) for row in rows):
        fields = {name for row in rows for name, value in row.items() if value}
        known = sorted(fields - {"text", "reference", "hypothesis", "seconds", "words", "errors"})
        there = f"there is {', '.join(known) or 'none'}"
        raise UserError(f"no utterance has a field {field!r}{hint(field, known)}; {there}")
    return [str(row.get(field) or "(none)") for row in rows]


def _require_replaceable(args: argparse.Namespace, about: dict[str, Any]) -> None:
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


def _write(
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
