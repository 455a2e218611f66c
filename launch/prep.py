"""`slam-asr prep`: everything between a corpus and the shards that training reads."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

SYNTH_SPLITS = {"train": 3000, "dev": 64, "test": 200, "hard": 100}


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="prep", required=True, metavar="VERB")
    for name, (help_text, add_arguments, _) in VERBS.items():
        add_arguments(verbs.add_parser(name, help=help_text, description=help_text))


def run(args: argparse.Namespace) -> int:
    return VERBS[args.prep][2](args)


def _synth_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, help="folder to write SPLIT.jsonl and SPLIT/audio/*.flac to")
    parser.add_argument("--split", default="all", choices=(*SYNTH_SPLITS, "all"), help="which voices (all four)")
    numbers = ", ".join(f"{split} {number:,}" for split, number in SYNTH_SPLITS.items())
    parser.add_argument("--utterances", type=int, metavar="N", help=f"sentences a split ({numbers})")
    parser.add_argument("--seed", type=int, default=0, help="of sentences and voices (0)")
    parser.add_argument("--workers", type=int, default=_cores(), metavar="N", help="processes (all cores)")


def _synth(args: argparse.Namespace) -> int:
    from data_prep.synth.corpus import write_corpus

    for split, number in SYNTH_SPLITS.items():
        if args.split in (split, "all"):
            number = args.utterances or number
            manifest = write_corpus(args.out, split, number, args.seed, args.workers)
            print(f"{manifest}: {number:,} utterances")
    return 0


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("importer", choices=("librispeech", "jsonl"))
    parser.add_argument("source", type=Path, help="the corpus folder or the manifest")
    parser.add_argument("--out", type=Path, required=True, metavar="utterances.jsonl")
    _add_shared(parser)


def _import(args: argparse.Namespace) -> int:
    from data_prep.manifest import import_corpus

    report = import_corpus(_utterances(args.importer, args), args.out, args.max_bad)
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in sorted(report.dropped.items())) or "none"
    print(f"{report.read:,} rows read, {report.kept:,} kept, dropped: {dropped}; {report.seconds / 3600:,.2f} h")
    for utterance in report.first:
        print(f"  {utterance.key}  {utterance.audio}  {utterance.text[:60]}")
    print(f"wrote {args.out}; next: slam-asr prep build {args.out} SHARDS_DIR")
    return 0


def _build_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="a LibriSpeech folder, or a .jsonl manifest")
    parser.add_argument("out", type=Path, help="directory of the shards")
    parser.add_argument("--importer", choices=("librispeech", "jsonl"), help="default: by what SOURCE is")
    parser.add_argument("--shard-size", type=int, default=1000, metavar="N", help="utterances a shard (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffle over shards (0)")
    parser.add_argument("--workers", type=int, default=_cores(), metavar="N", help="processes (all cores)")
    parser.add_argument("--lowercase", action="store_true", help="write transcripts in lower case")
    parser.add_argument("--min-seconds", type=float, default=0.0, metavar="S", help="drop shorter utterances")
    parser.add_argument("--max-seconds", type=float, default=3600.0, metavar="S", help="drop longer ones (3600)")
    parser.add_argument("--no-verify", action="store_true", help="do not decode FLAC that is copied as it is")
    parser.add_argument("--overwrite", action="store_true", help="replace what other input or options made")
    _add_shared(parser)


def _build(args: argparse.Namespace) -> int:
    from data_prep.build import BuildOptions, build
    from data_prep.importers import guess_importer
    from data_prep.prepare import Limits

    importer = args.importer or guess_importer(args.source)
    limits = Limits(args.lowercase, args.min_seconds, args.max_seconds, not args.no_verify)
    options = BuildOptions(args.shard_size, args.seed, args.workers, args.max_bad, args.overwrite, limits)
    totals = build(_utterances(importer, args), args.out, options)
    if totals.already_built:
        print(f"{args.out} is already built from this input with these options; nothing done")
    if totals.kept_shards:
        print(f"{totals.kept_shards:,} shards were finished before and kept")
    print(
        f"{args.out}: {totals.utterances:,} utterances, {totals.seconds / 3600:,.2f} h, {totals.shards:,} shards, "
        f"{totals.bytes / 1e6:,.1f} MB{_reasons('bad', totals.bad)}{_reasons('dropped', totals.dropped)}"
    )
    return 0


def _features_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shards", type=Path, help="a directory that prep build made")
    parser.add_argument("out", type=Path, help="directory of the feature shards")
    parser.add_argument("--encoder", required=True, help="Hugging Face id or folder")
    parser.add_argument("--layer", type=int, help="transformer layer, counted from 1 (the last)")
    parser.add_argument("--dtype", default="auto", help="the encoder computes in: float32, bfloat16, float16, auto")
    parser.add_argument("--feature-dtype", default="float16", choices=("float16", "bfloat16"), help="of what is kept")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (cuda where there is one)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")
    parser.add_argument("--overwrite", action="store_true", help="replace what another encoder or other shards made")


def _features(args: argparse.Namespace) -> int:
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


def _directory_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, help="what prep build or prep features made")


def _check(args: argparse.Namespace) -> int:
    from data_prep.check import check

    problems = check(args.directory)
    for problem in problems:
        print(problem)
    print(f"{args.directory}: {len(problems):,} problems" if problems else f"{args.directory}: all well")
    return 1 if problems else 0


def _stats(args: argparse.Namespace) -> int:
    from data_prep.index import read_index
    from data_prep.stats import table

    print(table(read_index(args.directory)))
    return 0


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-bad", type=float, default=0.01, metavar="F", help="fraction that may be bad (0.01)")
    parser.add_argument("--allow-outside", action="store_true", help="relative paths may leave the manifest's folder")


def _utterances(importer: str, args: argparse.Namespace) -> Any:
    from data_prep.importers import IMPORTERS

    extra = {"allow_outside": True} if args.allow_outside and importer == "jsonl" else {}
    return IMPORTERS[importer](args.source, **extra)


def _reasons(name: str, counts: dict[str, int]) -> str:
    listed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items()))
    return f"; {name}: {listed} (see {name}.jsonl)" if listed else ""


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


VERBS: dict[str, tuple[str, Any, Any]] = {
    "synth": ("make a corpus of synthetic speech", _synth_arguments, _synth),
    "import": ("turn a corpus into an utterance manifest", _import_arguments, _import),
    "build": ("turn a corpus or a manifest into shards", _build_arguments, _build),
    "features": ("run the encoder once over shards and keep its frames", _features_arguments, _features),
    "check": ("read every byte of a shard directory and name what is wrong", _directory_arguments, _check),
    "stats": ("hours, utterances and lengths of a shard directory", _directory_arguments, _stats),
}
