"""A pipeline's stages: shards -> features -> train -> score, each an array of jobs that waits for the one before it.

Where each element of the features reads the shards of the same element, it waits for that one alone (aftercorr). A
stage that fails cancels those after it (--kill-on-invalid-dep), which would otherwise wait for ever.
"""

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launch import stages as commands
from launch.slurm.arguments import directives
from launch.slurm.script import Directives, array
from model.errors import UserError

if TYPE_CHECKING:
    from train.recipe.config import Config


@dataclass(frozen=True)
class Stage:
    """A job, or an array of them."""

    name: str
    text: str
    """Its script for sbatch."""
    after: str
    """The stage that it waits for, "" for none."""
    how: str = "afterok"
    """Or aftercorr, element by element."""


def add_pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("of a pipeline").add_argument
    add("--build", action="append", default=[], metavar="DIR=SOURCE", help="shards of a corpus; may be repeated")
    example = 'of `prep build`, as --build-options="--lowercase --max-seconds 30"'
    add("--build-options", default="", metavar="OPTIONS", help=example)
    add("--features", action="append", default=[], metavar="DIR=SHARDS", help="frames of shards; may be repeated")
    add("--feature-options", default="", metavar="OPTIONS", help="of `prep features`, likewise")
    add("--score", action="append", default=[], metavar="SHARDS", help="score the adapter on them; may be repeated")
    add("--at-once", type=int, default=0, metavar="N", help="elements of a stage that run at a time; default: all")
    add("--prep-partition", default="", metavar="NAME", help="of the shards; default: --partition")
    add("--prep-cpus", type=int, default=16, metavar="N", help="cores of an element of the shards (16)")
    add("--prep-time", default="", metavar="LIMIT", help="of an element before or after training; default: --time")


def stages(args: argparse.Namespace, config: "Config", folder: Path) -> list[Stage]:
    """All but the training, in order."""
    if not (args.build or args.features or args.score):
        raise UserError("a pipeline has stages beside the training; give --build, --features or --score")
    asked = directives(args, folder.name)
    asked |= {"nodes": 1, "time": args.prep_time or args.time}
    builds, encodings = _pairs(args.build, "--build"), _pairs(args.features, "--features")

    def stage(name: str, after: str, lines: list[list[str]], changes: Directives, how: str = "afterok") -> Stage:
        options = asked | {"job-name": f"{asked['job-name']}-{name}"} | changes
        return Stage(name, array(args, options, folder / "slurm" / f"{name}-%A_%a.out", lines), after, how)

    chain = []
    if builds:
        options = ["--workers", str(args.prep_cpus), *shlex.split(args.build_options)]
        lines = [commands.build(source, out, options) for out, source in builds]
        cpus: Directives = {"gpus-per-node": 0, "ntasks-per-node": 1, "cpus-per-task": args.prep_cpus}
        chain.append(stage("shards", "", lines, cpus | {"partition": args.prep_partition or args.partition}))
    if encodings:
        options = shlex.split(args.feature_options)
        lines = [commands.features(shards, out, config.model, options) for out, shards in encodings]
        same = [shards for _, shards in encodings] == [out for out, _ in builds]
        chain.append(stage("features", "shards" if builds else "", lines, {}, "aftercorr" if same else "afterok"))
    if args.score:
        outs = [(name, str(folder / "scores" / Path(name).name)) for name in args.score]
        lines = [["score", str(folder), name, "--out", out] for name, out in outs]
        chain.append(
            stage("score", "train", lines, {"gpus-per-node": min(1, args.gpus_per_node), "ntasks-per-node": 1})
        )
    return chain


def _pairs(given: list[str], flag: str) -> list[tuple[str, str]]:
    """Of OUT=SOURCE arguments."""
    sources: dict[str, str] = {}
    for pair in given:
        out, equals, source = pair.partition("=")
        if not (out and equals and source):
            raise UserError(
                f"{flag} {pair!r} is not of the form OUT=SOURCE, such as data/train=LibriSpeech/train-clean-100"
            )
        if out in sources:
            raise UserError(f"{flag} names {out} twice; give each directory one source")
        sources[out] = source
    return list(sources.items())
