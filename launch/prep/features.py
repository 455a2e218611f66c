"""`slam-asr prep features`: the encoder run once over shards."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shards", type=Path, help="a directory that prep build made")
    parser.add_argument("out", type=Path, help="directory of the feature shards")
    parser.add_argument("--encoder", required=True, help="Hugging Face id or folder")
    parser.add_argument("--layer", type=int, help="transformer layer, counted from 1 (the last)")
    parser.add_argument("--dtype", default="auto", help="the encoder computes in: float32, bfloat16, float16, auto")
    parser.add_argument("--feature-dtype", default="float16", choices=("float16", "bfloat16"), help="of what is kept")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (cuda where there is one)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")
    parser.add_argument("--overwrite", action="store_true", help="replace what another encoder or other shards made")


def run(args: argparse.Namespace) -> int:
    from data_prep.index import read_index

    index = read_index(args.shards)  # before the slow imports: a mistyped path is said at once
    import torch

    from data_prep.features import build_features
    from model.encoders import load_encoder

    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    encoder = load_encoder(args.encoder, args.layer, args.dtype, device, args.trust_remote_code)
    totals = build_features(index, encoder, args.out, args.feature_dtype, overwrite=args.overwrite)
    if totals.already_built:
        print(f"{args.out} already holds these features; nothing done")
    print(
        f"{args.out}: {totals.utterances:,} utterances, {totals.frames:,} frames of {encoder.dim} "
        f"{args.feature_dtype}, {totals.bytes / 1e6:,.1f} MB"
    )
    return 0
