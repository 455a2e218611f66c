"""`slam-asr plan`: what a recipe needs on given GPUs, from configurations alone.

gpus.py         which GPUs                         data.py      which utterances
shapes.py       the models, without weights        simulation.py  a step of them, without computing it
estimate.py     memory and speed of each stage     advice.py    what follows           report.py    in words
probe.py        the same measured, on a GPU
"""

from __future__ import annotations

import argparse
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launch.plan.data import Work
    from launch.plan.shapes import Shapes
    from train.recipe.config import Config

FITS, NOTHING_FITS = 0, 1  # exit codes
MOST_HOURS = 1_000_000_000


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Say what a recipe needs on given GPUs: memory in every ZeRO stage, the largest batch, hours, disk, and which "
        "command to type. No weight is read. Exit code 1 where nothing fits."
    )
    add = parser.add_argument
    add("recipe", metavar="RECIPE", type=Path, help="YAML file")
    add("overrides", nargs="*", default=[], metavar="section.key=value", help="values that replace the recipe's")
    add("--gpus", metavar="8x80GB", help="of one node: count x memory, or count x kind (4xh100)")
    add("--nodes", type=int, default=1, metavar="N", help="nodes of that kind (default: 1)")
    add("--gpu-type", metavar="KIND", help="a100, h100, h200, l40s ... (default: by memory)")
    add("--utilisation", type=float, default=0.4, metavar="SHARE", help="of the GPUs' peak, assumed (default: 0.4)")
    add("--hours", type=float, metavar="H", help="of audio, where data.train is not there yet (default: 960)")
    add("--json", action="store_true", help="print one JSON object")
    add("--probe", action="store_true", help="measure memory and speed on this GPU, beside what is predicted")


def run(args: argparse.Namespace) -> int:
    from model.errors import UserError

    if not 0 < args.utilisation <= 1:
        raise UserError(f"--utilisation is {args.utilisation:g}, it is a share of the peak: above 0, at most 1")
    if args.hours is not None and not 0 < args.hours <= MOST_HOURS:
        raise UserError(f"--hours is {args.hours:g}, it must be above 0 and at most {MOST_HOURS:,}")
    return _probe(args) if args.probe else _plan(args)


def _plan(args: argparse.Namespace) -> int:
    from data_prep.durable import canonical_json
    from launch.plan.advice import advise
    from launch.plan.estimate import NAMES, Estimator
    from launch.plan.gpus import read_cluster
    from launch.plan.report import Plan
    from model.errors import UserError
    from train.recipe.kinds import decided
    from train.remarks import rank_remarks, schedule_remarks

    if args.gpus is None:
        raise UserError("--gpus is missing: 8x80GB, 1x24GB or 4xh100 say which GPUs the plan is for")
    cluster = read_cluster(args.gpus, args.nodes, args.gpu_type)
    config, shapes, work = _read(args, cluster.bytes_each)
    estimator = Estimator.of(shapes, work, cluster, args.utilisation)
    micro_batches = decided(config.batch.micro_batches)
    busy = micro_batches / (cluster.ranks * -(-micro_batches // cluster.ranks))
    rows = [estimator.row(name, decided(config.batch.tokens), busy) for name in NAMES]
    best = next((row for row in rows if row.largest_tokens >= work.longest_cost), rows[0])
    hours = estimator.hours(config, best.on_the_fly, best.cached)
    advice = advise(config, [str(args.recipe), *args.overrides], estimator, rows, hours)
    remarks = schedule_remarks(config, hours.steps_per_epoch, _total_steps(config, hours.steps_per_epoch))
    remarks += rank_remarks(config, cluster.ranks, work.longest_cost)
    plan = Plan(str(args.recipe), config, estimator, rows, hours, advice, remarks)
    print(canonical_json(plan.document(), indent=1).decode() if args.json else plan.text())
    return FITS if advice.deepspeed else NOTHING_FITS


def _probe(args: argparse.Namespace) -> int:
    import torch

    from launch.plan.probe import measure_here
    from model.errors import UserError

    if not torch.cuda.is_available():
        raise UserError("--probe measures on a GPU, and this machine shows none; --gpus 8x80GB predicts instead")
    memory = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    config, shapes, work = _read(args, memory)
    measure_here(config, shapes, work, args.utilisation, args.gpu_type, args.json)
    return FITS


def _read(args: argparse.Namespace, device_bytes: int) -> tuple[Config, Shapes, Work]:
    """The recipe with what it leaves to auto decided for such a GPU, the sizes of its models, and its data."""
    from launch.plan.data import read_work
    from launch.plan.shapes import read_shapes
    from train.recipe import auto
    from train.recipe.config import load_config

    config = load_config(args.recipe, args.overrides)
    shapes = read_shapes(config.model)
    work = read_work(config, shapes, args.hours)
    size = shapes.dtype.itemsize
    frozen = size * (shapes.llm_parameters + (0 if work.cached else shapes.encoder_parameters))
    most = auto.tokens_that_fit(shapes.llm, frozen, device_bytes, size)
    config = auto.decide_batch(config, int(work.cost), work.longest_cost, most)
    return auto.decide_steps(config, _total_steps(config, work.steps(config)), 0), shapes, work


def _total_steps(config: Config, steps_an_epoch: int) -> int:
    """Of the run that a recipe describes."""
    limits = [config.optim.max_steps, config.optim.epochs and ceil(config.optim.epochs * steps_an_epoch)]
    return min(limit for limit in limits if limit)
