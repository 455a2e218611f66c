"""Where the texts come from: an adapter that decodes, a run's own dev data, an earlier scoring, or files."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launch.scoring.report import clips_of
from launch.scoring.rows import SCORE, require_replaceable
from model.errors import UserError

if TYPE_CHECKING:
    from decode.scoring.reading import Row

# Of score.json, what is computed from the texts; the rest says where they come from.
COMPUTED = ("normaliser", "normalisers", "all", "by", "aligner", "bootstrap", "rates", "notes", "against", "group")


class Texts(NamedTuple):
    """Utterances to score."""

    rows: list[Row]
    decoded: bool  # by this process, now
    about: dict[str, Any]  # their origin, as score.json states it
    decoding: dict[str, Any] | None  # seconds, audio_seconds, rtfx, ranks; None where texts were given
    others: list[Row] | None  # of --against
    other: dict[str, Any] | None  # its score.json
    clips: Callable[[str], bytes | None] | None  # of --audio: a key's recording


def gather(args: argparse.Namespace) -> Texts:
    """Whatever can be refused is refused before decoding."""
    from decode.scoring.reading import read_scoring

    one, two, files = bool(args.adapter), bool(args.shards), (bool(args.ref), bool(args.hyp))
    if (any(files) and (one or not all(files))) or not (one or any(files)):
        raise UserError("give ADAPTER and SHARDS, or --ref and --hyp; `slam-asr score --help` says more")
    others, other = read_scoring(args.against) if args.against is not None else (None, None)
    clips = None
    decodes = not any(files) and (two or not (Path(args.adapter) / SCORE).exists())
    if not decodes:
        _refuse_search(args)
        rows, about = _files(args) if any(files) else _again(args)
        clips = clips_of(about.get("shards")) if args.audio else None
    else:
        args.shards = args.shards or _dev_of(Path(args.adapter))
        clips = clips_of(args.shards) if args.audio else None
        rows, about = _decoded(args)
    return Texts(rows, decodes, about, about.pop("decoding", None), others, other, clips)


def _refuse_search(args: argparse.Namespace) -> None:
    """UserError for flags of a search where nothing is decoded: the numbers would be taken for its."""
    from decode.options import DecodeOptions

    usual = asdict(DecodeOptions(batch_tokens=args.batch_tokens))
    if given := [name for name, value in usual.items() if getattr(args, name, value) != value]:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        where = "nothing is decoded here, texts that exist are scored"
        raise UserError(f"{flags}: {where}; leave that out, or name ADAPTER and SHARDS")


def _files(args: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    from data_prep.durable import encodable
    from decode.scoring.reading import read_pairs

    rows = read_pairs(args.ref, args.hyp)
    about = {"references": encodable(str(args.ref)), "hypotheses": encodable(str(args.hyp))}
    require_replaceable(args, about)
    return rows, about


def _again(args: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    from decode.scoring.reading import read_scoring

    rows, score = read_scoring(Path(args.adapter))
    about = {name: value for name, value in score.items() if name not in COMPUTED}
    require_replaceable(args, about)
    return rows, about


def _decoded(args: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    from decode.scoring.reading import Row, flat, known, seconds_of
    from launch.scoring.decoded import decoded

    hypotheses, meta, about = decoded(args)
    rows = []
    for said, one in zip(hypotheses, meta, strict=True):
        texts = (said.key, said.reference, said.hypothesis, said.note, said.confidence)
        rows.append(Row(*texts, seconds_of(one), known(flat(one)), said.alternatives))
    return rows, about


def _dev_of(run: Path) -> str:
    """The directory that a run is evaluated on, as its config.yaml has it: from the folder where the training was
    started, or the one that the run lies in. UserError where there is none, or more than one."""
    from model.weights import find_adapter
    from train.recipe.config import load_config

    find_adapter(run)  # says what is wrong with a folder that is no run at all
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(f"{str(run)!r} is no run, whose config.yaml names its dev data; give SHARDS after it")
    dev = load_config(path).data.dev
    if len(dev) != 1:
        there = f"has {len(dev)} directories in data.dev ({', '.join(dev)})" if dev else "has no data.dev"
        raise UserError(f"the run {str(run)!r} {there}; give SHARDS, one directory, after it")
    beside = run.resolve().parent / dev[0]
    return str(beside) if not Path(dev[0]).exists() and beside.exists() else dev[0]
