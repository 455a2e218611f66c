"""`slam-asr score ADAPTER SHARDS`: the utterances of a shard directory, decoded."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from launch import decoding
from launch.scoring.rows import groups, require_replaceable
from model.errors import UserError

if TYPE_CHECKING:
    from data_prep.shards.index import ShardIndex
    from launch.scoring.rows import ScoredRows
    from model.weights import AdapterCard


def decoded(args: argparse.Namespace) -> ScoredRows:
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
    require_replaceable(args, about)
    meta = [read_meta(index, i) for i in range(len(index))]
    if args.by and meta:
        groups(args.by, meta)
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
