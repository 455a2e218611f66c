"""The verb itself: from its arguments to a printed plan."""

import argparse
from math import ceil

import torch

from data_prep.durable import canonical_json
from launch.plan.advice import advise
from launch.plan.data import Work, read_work
from launch.plan.estimate import NAMES, Estimator
from launch.plan.gpus import read_cluster
from launch.plan.probe import measure_here
from launch.plan.report import Plan
from launch.plan.shapes import Shapes, read_shapes
from model.errors import UserError
from train.recipe import auto
from train.recipe.config import Config, load_config
from train.recipe.kinds import decided
from train.remarks import rank_remarks, schedule_remarks

FITS, NOTHING_FITS = 0, 1  # exit codes
MOST_HOURS = 1_000_000_000


def plan(args: argparse.Namespace) -> int:
    """Prints the plan; the exit code."""
    _require_sane(args)
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
    advice = advise(config, [str(args.recipe), *args.overrides], estimator, rows)
    remarks = schedule_remarks(config, hours.steps_per_epoch, _total_steps(config, hours.steps_per_epoch))
    remarks += rank_remarks(config, cluster.ranks, work.longest_cost)
    report = Plan(str(args.recipe), config, estimator, rows, hours, advice, remarks)
    print(canonical_json(report.document(), indent=1).decode() if args.json else report.text())
    return FITS if advice.deepspeed else NOTHING_FITS


def probe(args: argparse.Namespace) -> int:
    """Prints what is measured on this GPU; the exit code."""
    _require_sane(args)
    if not torch.cuda.is_available():
        raise UserError("--probe measures on a GPU, and this machine shows none; --gpus 8x80GB predicts instead")
    memory = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    measure_here(*_read(args, memory), args.utilisation, args.gpu_type, args.json)
    return FITS


def _require_sane(args: argparse.Namespace) -> None:
    if not 0 < args.utilisation <= 1:
        raise UserError(f"--utilisation is {args.utilisation:g}, it is a share of the peak: above 0, at most 1")
    if args.hours is not None and not 0 < args.hours <= MOST_HOURS:
        raise UserError(f"--hours is {args.hours:g}, it must be above 0 and at most {MOST_HOURS:,}")


def _read(args: argparse.Namespace, device_bytes: int) -> tuple[Config, Shapes, Work]:
    """The recipe with what it leaves to auto decided for such a GPU, the sizes of its models, and its data."""
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
