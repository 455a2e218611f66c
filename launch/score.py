"""`slam-asr score`: the word error rate of an adapter on a shard directory, or of hypotheses that exist already."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import decoding
from launch.score_files import make_folder, require_replaceable, write
from model.errors import UserError, counted, hint

if TYPE_CHECKING:
    from data_prep.shards.index import ShardIndex
    from decode.dataset import Hypothesis
    from model.weights import AdapterCard

    Rows = tuple[list[Hypothesis], list[dict[str, Any]], dict[str, Any]]
    """Hypotheses, their metadata, and what score.json says of their origin."""

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
    out = (
        "write hypotheses.jsonl and score.json there; the same scoring may be repeated (default: only print the table)"
    )
    add("--out", type=Path, metavar="DIR", help=out)
    add("--overwrite", action="store_true", help="replace another scoring in --out (default: refuse)")
    decoding.add_flags(parser)


def run(args: argparse.Namespace) -> int:
    from decode.score import Score, by_group, score_each, table

    if args.out is not None:
        make_folder(args.out)
    rows, meta, about = _decoded(args) if _wants_decoding(args) else _given(args)
    groups = _groups(args.by, meta) if args.by else []
    scores = score_each([row.reference for row in rows], [row.hypothesis for row in rows], args.normaliser)
    by, total = by_group(groups, scores) if groups else {}, sum(scores, Score())
    print(table([*by.items(), ("all", total)], args.by or ""))
    for note, keys in _notes(rows).items():
        unfit = (f"utterance {note.replace('-', ' ')}", f"utterances {note.replace('-', ' ')}")
        cut = note == "cut"
        what = counted(len(keys), *(("answer", "answers") if cut else unfit))
        then = "cut at the bound on tokens (--max-new-tokens)" if cut else "to transcribe, scored as empty"
        print(f"slam-asr: {what} {then} (the first is {keys[0]})", file=sys.stderr)
    if args.out is not None:
        about |= {"all": total.as_json(), "by": {name: score.as_json() for name, score in by.items()}}
        about["notes"] = {note: len(keys) for note, keys in _notes(rows).items()}
        write(args, rows, meta, scores, about)
    return 0


def _notes(rows: list[Hypothesis]) -> dict[str, list[str]]:
    """{note: keys of the utterances that have it}."""
    return {note: [row.key for row in rows if row.note == note] for note in sorted({row.note for row in rows} - {""})}


def _wants_decoding(args: argparse.Namespace) -> bool:
    forms = [bool(args.adapter and args.shards), bool(args.ref and args.hyp)]
    halves = [bool(args.adapter or args.shards), bool(args.ref or args.hyp)]
    if forms != halves or sum(forms) != 1:
        raise UserError("give ADAPTER and SHARDS, or --ref and --hyp; `slam-asr score --help` says more")
    return forms[0]


def _decoded(args: argparse.Namespace) -> Rows:
    """Of an adapter and shards. What can be refused is refused before decoding."""
    from data_prep.shards.opening import read_index
    from decode.dataset import decode_dataset, read_metadata
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
    about = {"adapter": str(args.adapter), "step": card.step, "weights_sha256": card.weights_sha256}
    about |= {"shards": str(args.shards), "shards_digest": index.digest()}
    about |= {"beams": args.beams, "max_new_tokens": args.max_new_tokens}
    require_replaceable(args, about)
    if args.by:
        _groups(args.by, read_metadata(index))
    model = decoding.load(args, with_encoder=index.kind == "audio")
    return *decode_dataset(model, index, decoding.options(args), label="score"), about


def _require_same_encoder(args: argparse.Namespace, index: ShardIndex, card: AdapterCard) -> None:
    """UserError if the --encoder given for features, which need none, is not the adapter's."""
    from model.encoders import load_encoder
    from model.loading.pretrained import files_digest
    from model.weights import require_encoder

    files = index.totals.get("encoder_files")
    if not files or files != files_digest(args.encoder):
        encoder = load_encoder(args.encoder, card.encoder["layer"], args.dtype, "cpu", args.trust_remote_code)
        require_encoder(card, encoder.fingerprint(), args.encoder)


def _given(args: argparse.Namespace) -> Rows:
    from decode.dataset import Hypothesis
    from decode.given import read_pairs

    pairs = read_pairs(args.ref, args.hyp)
    about = {"references": str(args.ref), "hypotheses": str(args.hyp)}
    require_replaceable(args, about)
    rows = [Hypothesis(pair.key, pair.reference, pair.hypothesis) for pair in pairs]
    return rows, [pair.fields for pair in pairs], about


def _groups(field: str, meta: list[dict[str, Any]]) -> list[str]:
    """The field's value for each utterance: a field beside the text, else one of the corpus's own in `meta`."""
    rows = [{**row.get("meta", {}), **{name: value for name, value in row.items() if name != "meta"}} for row in meta]
    if not any(row.get(field) for row in rows):
        fields = {name for row in rows for name, value in row.items() if value}
        known = sorted(fields - {"text", "reference", "hypothesis", "seconds", "words", "errors"})
        raise UserError(
            f"no utterance has a field {field!r}{hint(field, known)}; there is {', '.join(known) or 'none'}"
        )
    return [str(row.get(field) or "(none)") for row in rows]
