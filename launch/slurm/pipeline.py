"""A pipeline's stages: shards -> features -> train -> score, each an array of jobs that waits for the one before it.

Where an element of the features reads the shards of the same element, it waits for that one alone (aftercorr). A stage
that fails ends those after it (--kill-on-invalid-dep), instead of leaving them to wait for ever.
"""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from launch import stages as commands_of
from launch.slurm.arguments import program, resources
from launch.slurm.script import Resources, array
from model.errors import UserError

if TYPE_CHECKING:
    from train.recipe.config import Config


@dataclass(frozen=True)
class Stage:
    """A job, or an array of them."""

    name: str
    text: str
    """What sbatch gets."""
    after: str
    """The stage that it waits for, "" for none, and how: afterok, or aftercorr for element by element."""
    how: str = "afterok"


def add_pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    of = parser.add_argument_group("of a pipeline").add_argument
    of("--build", action="append", default=[], metavar="DIR=SOURCE", help="shards of a corpus; may be repeated")
    of(
        "--build-options",
        default="",
        metavar="OPTIONS",
        help='of `prep build`, as --build-options="--lowercase --max-seconds 30"',
    )
    of("--features", action="append", default=[], metavar="DIR=SHARDS", help="frames of shards; may be repeated")
    of("--feature-options", default="", metavar="OPTIONS", help="of `prep features`, likewise")
    of("--score", action="append", default=[], metavar="SHARDS", help="score the adapter on them; may be repeated")
    of("--at-once", type=int, default=0, metavar="N", help="elements of a stage that run at a time; default: all")
    of("--prep-partition", default="", metavar="NAME", help="of the shards; default: --partition")
    of("--prep-cpus", type=int, default=16, metavar="N", help="cores of an element of the shards (16)")
    of("--prep-time", default="", metavar="LIMIT", help="of an element before or after training; default: --time")


def stages(args: argparse.Namespace, config: Config, folder: Path) -> list[Stage]:
    """All but the training, in order."""
    if not (args.build or args.features or args.score):
        raise UserError("a pipeline has stages beside the training; give --build, --features or --score")
    asked, found = resources(args, folder.name), []
    small = replace(asked, nodes=1, time=args.prep_time or asked.time)
    builds, encodings = _pairs(args.build, "--build"), _pairs(args.features, "--features")
    if builds:
        cpus = replace(
            small, gpus_per_node=0, ranks_per_node=1, cpus_per_task=args.prep_cpus, name=f"{asked.name}-shards"
        )
        cpus = replace(cpus, partition=args.prep_partition or asked.partition)
        options = ["--workers", str(args.prep_cpus), *shlex.split(args.build_options)]
        commands = [commands_of.build(source, out, options) for out, source in builds]
        found.append(_stage("shards", "", cpus, args, folder, commands))
    if encodings:
        named = replace(small, name=f"{asked.name}-features")
        options = shlex.split(args.feature_options)
        commands = [commands_of.features(shards, out, config.model, options) for out, shards in encodings]
        stage = _stage("features", "shards" if builds else "", named, args, folder, commands)
        same = [shards for _, shards in encodings] == [out for out, _ in builds]
        found.append(replace(stage, how="aftercorr") if same else stage)
    if args.score:
        gpus = min(1, small.gpus_per_node)
        one = replace(small, gpus_per_node=gpus, ranks_per_node=1, name=f"{asked.name}-score")
        scores = folder / "scores"
        commands = [commands_of.score(str(folder), shards, str(scores / Path(shards).name)) for shards in args.score]
        found.append(_stage("score", "train", one, args, folder, commands))
    return found


def _stage(
    name: str, after: str, asked: Resources, args: argparse.Namespace, folder: Path, commands: list[list[str]]
) -> Stage:
    output = folder / "slurm" / f"{name}-%A_%a.out"
    return Stage(name, array(asked, program(args), output, commands, args.at_once), after)


def _pairs(given: list[str], flag: str) -> list[tuple[str, str]]:
    pairs = []
    for one in given:
        out, equals, source = one.partition("=")
        if not (out and equals and source):
            raise UserError(
                f"{flag} {one!r} is not of the form OUT=SOURCE, such as data/train=LibriSpeech/train-clean-100"
            )
        pairs.append((out, source))
    outs = [out for out, _ in pairs]
    if len(set(outs)) < len(outs):
        twice = next(out for out in outs if outs.count(out) > 1)
        raise UserError(f"{flag} names {twice} twice; give each directory one source")
    return pairs
