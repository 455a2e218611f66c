"""The texts to score: decoded from shards or a run's dev data, of an earlier scoring, or from files."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from decode.scoring import SCORE
from launch import decoding
from launch.scoring.report import clips_of
from launch.scoring.rows import require_replaceable
from model.errors import UserError

if TYPE_CHECKING:
    from decode.scoring.reading import Row

# Fields of score.json that are computed from the texts; the others state the origin of these.
COMPUTED = ("normaliser", "normalisers", "all", "by", "aligner", "bootstrap", "rates", "notes", "against", "group")


class Texts(NamedTuple):
    """Utterances to score."""

    rows: list[Row]
    decoded: bool  # by this command
    about: dict[str, Any]  # their origin, as score.json states it
    decoding: dict[str, Any] | None  # seconds, audio_seconds, rtfx, ranks; None if texts were given
    others: list[Row] | None  # of --against
    other: dict[str, Any] | None  # its score.json
    clips: Callable[[str], bytes | None] | None  # with --audio: key to recording


def gather(args: argparse.Namespace) -> Texts:
    """The texts that the arguments ask for. Whatever is refused is refused before decoding."""
    from decode.scoring.reading import read_scoring

    one, two, files = bool(args.adapter), bool(args.shards), (bool(args.ref), bool(args.hyp))
    if (any(files) and (one or not all(files))) or not (one or any(files)):
        raise UserError("give ADAPTER and SHARDS, or --ref and --hyp; see `slam-asr score --help`")
    others, other = read_scoring(args.against) if args.against is not None else (None, None)
    clips = None
    decodes = not any(files) and (two or not (Path(args.adapter) / SCORE).exists())
    if not decodes:
        if flags := decoding.given(args):
            where = "nothing is decoded here, existing texts are scored"
            raise UserError(f"{', '.join(flags)}: {where}; leave it out, or name ADAPTER and SHARDS")
        rows, about = _files(args) if any(files) else _again(args)
        clips = clips_of(about.get("shards")) if args.audio else None
    else:
        args.shards = args.shards or _dev_of(Path(args.adapter))
        clips = clips_of(args.shards) if args.audio else None
        if others is not None:
            _require_same_utterances(args, others)
        rows, about = _decoded(args)
    return Texts(rows, decodes, about, about.pop("decoding", None), others, other, clips)


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


def _require_same_utterances(args: argparse.Namespace, others: Sequence[Row]) -> None:
    from data_prep.shards.opening import read_index
    from decode.scoring.reading import require_same_keys

    require_same_keys(read_index(args.shards).key, [row.key for row in others], args.shards, str(args.against))


def _decoded(args: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    from decode.scoring.reading import Row, flat, known, seconds_of
    from launch.scoring.decoded import decoded

    hypotheses, meta, about = decoded(args)
    rows = []
    for answer, one in zip(hypotheses, meta, strict=True):
        texts = (answer.key, answer.reference, answer.hypothesis, answer.note, answer.confidence)
        rows.append(Row(*texts, seconds_of(one), known(flat(one)), answer.alternatives))
    return rows, about


def _dev_of(run: Path) -> str:
    """The dev directory in a run's config.yaml, relative to the current folder or to the one that contains the run.
    UserError if there is none, or more than one."""
    from model.weights import find_adapter
    from train.recipe.config import load_config

    find_adapter(run)  # a better error for a folder that is not a run
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(f"{str(run)!r} has no config.yaml, so is not a run with dev data; give SHARDS after it")
    dev = load_config(path).data.dev
    if len(dev) != 1:
        there = f"has {len(dev)} directories in data.dev ({', '.join(dev)})" if dev else "has no data.dev"
        raise UserError(f"the run {str(run)!r} {there}; give SHARDS, one directory, after it")
    beside = run.resolve().parent / dev[0]
    return str(beside) if not Path(dev[0]).exists() and beside.exists() else dev[0]
