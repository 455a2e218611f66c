"""`slam-asr prep features`: the encoder run once over shards, on any number of ranks; or its cached frames checked."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.cores import usable_cores
from data_prep.figures import in_hours, in_units
from data_prep.shards.frames import EXTENSIONS
from data_prep.shards.opening import read_index
from launch.prep.arguments import local_folder
from model.errors import UserError, counted, require_at_least
from train.dist.launch_env import RankEnv, read_rank_env

if TYPE_CHECKING:
    from data_prep.features.build import FeatureRank, FeatureRun
    from data_prep.shards.index import ShardIndex
    from model.encoders import Encoder

RANKS = """\
on several GPUs, or several hosts that share a file system; a killed run goes on, with any number of ranks:
  torchrun --nproc_per_node 8 -m launch prep features SHARDS OUT --encoder E --yes
  deepspeed --num_accelerators 8 --module launch prep features SHARDS OUT --encoder E --yes
  srun --ntasks-per-node 8 python -m launch prep features SHARDS OUT --encoder E --yes"""
LAYER_HELP = "transformer layer, counted from 1 (the last); or several: mean, mean:6-12, weighted, weighted:6-12"
WINDOW_HELP = "for Whisper and Voxtral: audio padded to 30 s (the default), or cut to its own length"
DTYPE_HELP = "of what is kept; int8 has a scale for each frame"


def configure_features(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, RANKS
    add = parser.add_argument
    add("shards", metavar="SHARDS", help="a directory that prep build made, or its address")
    add("out", metavar="OUT", type=local_folder, help="directory of the feature shards")
    add("--encoder", required=True, help="Hugging Face id or folder")
    add("--layer", help=LAYER_HELP)
    add("--window", choices=("padded", "cut"), help=WINDOW_HELP)
    add("--dtype", default="auto", help="the encoder computes in: float32, bfloat16, float16, auto")
    add("--feature-dtype", default="float16", choices=tuple(EXTENSIONS), help=DTYPE_HELP)
    add("--device", default="auto", help="cpu, cuda, cuda:1 ... (cuda where there is one, each rank its own)")
    add("--verify", metavar="N", type=int, default=16, help="utterances encoded again at the end and compared (16)")
    add("--check", action="store_true", help="write nothing: hold what is in OUT against SHARDS and the encoder")
    add("--ask-above", metavar="GB", type=float, default=50.0, help="ask before more is written (50)")
    add("--ask-above-hours", metavar="HOURS", type=float, default=1.0, help="ask before it takes longer (1)")
    add("--yes", action="store_true", help="do not ask")
    add("--trust-remote-code", action="store_true", help="run code that comes with the model")
    add("--overwrite", action="store_true", help="replace what another encoder or other shards made")


def run_features(args: argparse.Namespace) -> int:
    rank = read_rank_env()
    try:
        for option in ("--verify", "--ask-above", "--ask-above-hours"):
            require_at_least(option, getattr(args, option[2:].replace("-", "_")), 0)
        index = read_index(args.shards)  # before the slow imports
        if args.check:
            return _check(args, index) if rank.first else 0
        encoder = _encoder(args, rank)
        share = _share(args, rank)
        _ask(args, index, encoder, share, rank.first)
    except UserError as error:
        raise UserError(str(error) if rank.first else f"rank {rank.rank}: {error}") from None
    from data_prep.features.build import build_features

    result = build_features(index, encoder, args.out, args.feature_dtype, overwrite=args.overwrite, rank=share)
    return _report(args, index, encoder, result, rank)


def _encoder(args: argparse.Namespace, rank: RankEnv, dtype: str | None = None) -> Encoder:
    """On the rank's own device, computing in `dtype` if not as the options say."""
    import torch

    from model.encoders import load_encoder
    from train.dist.collectives import gpu_number

    device, gpu = args.device, torch.cuda.is_available()
    kind = device.partition(":")[0]
    if kind not in ("auto", "cpu", "cuda") or (kind == "cuda" and not gpu):
        why = "there is no GPU here" if kind == "cuda" else "it is not known"
        raise UserError(f"--device {device}: {why}; give cpu, cuda, cuda:1 or auto")
    if device == "auto":
        device = f"cuda:{gpu_number(rank, torch.cuda.device_count())}" if gpu else "cpu"
    computed, code = dtype or args.dtype, args.trust_remote_code
    encoder = load_encoder(args.encoder, args.layer, computed, device, code, args.window)
    if encoder.dtype_note and rank.first:
        print(encoder.dtype_note, file=sys.stderr)
    return encoder


def _share(args: argparse.Namespace, rank: RankEnv) -> FeatureRank:
    """The ranks on one host share its cores."""
    import torch

    from data_prep.features.build import FeatureRank
    from data_prep.features.encoding import GPU_THREADS

    most = torch.get_num_threads() if args.device == "cpu" or not torch.cuda.is_available() else GPU_THREADS
    return FeatureRank(rank.rank, rank.size, max(1, min(most, usable_cores() // rank.local_size)))


def _ask(args: argparse.Namespace, index: ShardIndex, encoder: Encoder, share: FeatureRank, first: bool) -> None:
    """Prints the expected size and time; asks whether to go on, or demands --yes, if they are large. UserError to stop
    here."""
    from data_prep.features.build import estimate, require_fit
    from data_prep.progress import clock

    require_fit(index, encoder, args.out, args.feature_dtype)
    expected = estimate(index, encoder, args.out, args.feature_dtype, share.size, share.threads)
    if not expected.utterances:
        return
    ranks = f"{share.size} ranks, each at" if share.size > 1 else "one process, at"
    text = (
        f"{counted(expected.utterances, 'utterance')}, {in_hours(expected.audio_seconds)}: {in_units(expected.bytes)} "
        f"of {args.feature_dtype} ({in_units(expected.free_bytes)} are free), about {clock(3600 * expected.hours)} on "
        f"{ranks} {expected.speed:,.0f} seconds of audio a second"
    )
    large = expected.bytes > args.ask_above * 1e9 or expected.hours > args.ask_above_hours
    asks = large and not args.yes
    if asks and (share.size > 1 or not sys.stdin.isatty()):
        raise UserError(f"{text}; that is much: say --yes, or raise --ask-above and --ask-above-hours")
    if first:
        print(f"features of {text}", file=sys.stderr)
    if asks:
        print("go on? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise UserError("stopped as asked; nothing was written")


def _report(args: argparse.Namespace, index: ShardIndex, encoder: Encoder, result: FeatureRun, rank: RankEnv) -> int:
    """Prints what was written; the last rank to end also encodes some utterances again."""
    import numpy as np

    from data_prep.features.check import compare, draw

    totals = result.totals
    if totals is None:
        left = f"{result.missing:,} are left to other ranks; if none is running, run it again"
        encoded = counted(result.utterances, "utterance")
        print(f"rank {rank.rank} of {rank.size}: {encoded} encoded; {left if result.missing else 'done'}")
        return 0
    if totals.already_built:
        if rank.first:
            print(f"{args.out} already holds these features; nothing done")
        return 0
    frames = f"{counted(totals.frames, 'frame')} of {encoder.dim} {args.feature_dtype}"
    print(f"{args.out}: {counted(totals.utterances, 'utterance')}, {frames}, {totals.bytes / 1e6:,.1f} MB")
    ids = draw(np.arange(len(index)), args.verify)
    problems = compare(index, read_index(args.out), encoder, ids)
    again = counted(len(ids), "utterance was", "utterances were")
    return _print_problems(problems, f"{again} encoded again: the same frames", args.out)


def _check(args: argparse.Namespace, index: ShardIndex) -> int:
    from data_prep.features.build import require_fit
    from data_prep.features.check import check_features

    cache = read_index(args.out)
    if cache.kind != "features":
        raise UserError(f"{args.out} holds {cache.kind}; give a directory that `prep features` made")
    cached = cache.fingerprint
    encoder = _encoder(args, RankEnv(), cached.get("dtype", "auto") if args.dtype == "auto" else args.dtype)
    layer, own = cached.get("layer"), encoder.fingerprint()
    if args.layer is None and layer != own["layer"] and cached.get("weights") == own["weights"]:
        raise UserError(
            f"{args.out} holds layer {layer} of this encoder, without --layer the last is meant, layer {own['layer']}; "
            f"give --layer {layer} to check it"
        )
    require_fit(index, encoder, args.out, cached["feature_dtype"])
    problems = check_features(index, cache, encoder, args.verify)
    again = counted(min(args.verify, len(index)), "was", "were")
    there = counted(len(index), "utterance is", "utterances are")
    return _print_problems(problems, f"{there} there; {again} encoded again: the same", args.out)


def _print_problems(problems: list[str], otherwise: str, out: Path) -> int:
    for problem in problems:
        print(f"{out}: {problem}")
    print(f"{counted(len(problems), 'thing is', 'things are')} wrong with {out}" if problems else otherwise)
    return 1 if problems else 0
