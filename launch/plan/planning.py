"""Runs `slam-asr plan`: from its arguments to a printed plan."""

import argparse
import textwrap
from dataclasses import asdict
from math import ceil
from typing import Any

import torch

from data_prep.durable import canonical_json
from data_prep.figures import in_units, table
from data_prep.progress import clock
from launch.plan.data import Work, read_work
from launch.plan.estimate import NAMES, Estimator, Row, advise
from launch.plan.gpus import GIB, read_cluster
from launch.plan.probe import measure_here, measure_on_cpu
from launch.plan.shapes import Shapes, read_shapes
from model.errors import UserError, counted
from model.sample_rate import SAMPLE_RATE
from train.parts import prompt_remarks, remarks
from train.recipe import auto
from train.recipe.config import Config, load_config
from train.recipe.kinds import decided

FITS, NOTHING_FITS = 0, 1  # exit codes
MOST_HOURS = 1_000_000_000
WIDTH, INDENT = 110, 13  # characters


def run(args: argparse.Namespace) -> int:
    """Prints the plan, or with --probe what is measured on this GPU; the exit code."""
    if not 0 < args.utilisation <= 1:
        raise UserError(f"--utilisation is {args.utilisation:g}, it is a share of the peak: above 0, at most 1")
    if args.hours is not None and not 0 < args.hours <= MOST_HOURS:
        raise UserError(f"--hours is {args.hours:g}, it must be above 0 and at most {MOST_HOURS:,}")
    if args.probe:
        if not torch.cuda.is_available():
            config, shapes, work = _read(args, None)
            measure_on_cpu(config, shapes, work, _total_steps(config, work.steps(config)), args.json)
            return FITS
        memory = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        measure_here(*_read(args, memory), args.utilisation, args.gpu_type, args.json)
        return FITS
    if args.gpus is None:
        which = "8x80GB, 1x24GB or 4xh100 say which GPUs the plan is for"
        raise UserError(f"--gpus is missing: {which}; --probe measures on this machine, also without a GPU")
    cluster = read_cluster(args.gpus, args.nodes, args.gpu_type)
    config, shapes, work = _read(args, cluster.bytes_each)
    estimator, micro_batches = Estimator(shapes, work, cluster, args.utilisation), decided(config.batch.micro_batches)
    busy = micro_batches / (cluster.ranks * -(-micro_batches // cluster.ranks))
    rows = [estimator.row(name, decided(config.batch.tokens), busy) for name in NAMES]
    best = next((row for row in rows if row.largest_tokens >= work.longest_cost), rows[0])
    hours, advice = estimator.hours(config, best), advise(config, [str(args.recipe), *args.overrides], estimator, rows)
    steps = int(hours["steps_per_epoch"])
    plan = {
        "recipe": str(args.recipe),
        "data": {**vars(work), "tokens_each": None, "hours": work.seconds / 3600},
        "parameters": {
            "trained": {"adapter": shapes.adapter_parameters, "lora": shapes.lora_parameters},
            "frozen": {"encoder": shapes.encoder_parameters, "llm": shapes.llm_parameters},
        },
        "rows": [asdict(row) for row in rows],
        "least_tokens": work.longest_cost,
        "time": hours,
        "cache": estimator.cache(advice["cached"]),
        "advice": advice,
        "remarks": [
            *remarks(config, steps, _total_steps(config, steps), cluster.ranks, work.longest_cost),
            *prompt_remarks(work.prompt_tokens, work.tokens / work.utterances),
        ],
    }
    print(canonical_json(plan, indent=1).decode() if args.json else _text(plan, rows, config, estimator))
    return FITS if advice["deepspeed"] else NOTHING_FITS


def _read(args: argparse.Namespace, device_bytes: int | None) -> tuple[Config, Shapes, Work]:
    """The recipe with what it leaves to auto decided for such a GPU, or for a CPU (None), the sizes of its models, and
    its data."""
    config = load_config(args.recipe, args.overrides)
    if device_bytes is None:
        m = config.model
        dtypes = {"encoder_dtype": m.dtype_of_encoder, "llm_dtype": m.dtype_of_llm}
        on_cpu = {name: "float32" if dtype == "auto" else dtype for name, dtype in dtypes.items()}
        config = config.changed("model", **on_cpu)
    shapes = read_shapes(config)
    work = read_work(config, shapes, args.hours)
    frozen = shapes.llm_bytes + (0 if work.cached else shapes.encoder_bytes)
    most = auto.tokens_that_fit(config, shapes.llm, frozen, device_bytes, shapes.dtype.itemsize)
    config = auto.decide_batch(config, int(work.cost), work.longest_cost, most)
    return auto.decide_steps(config, _total_steps(config, work.steps(config)), 0), shapes, work


def _total_steps(config: Config, steps_an_epoch: int) -> int:
    """Of the run that a recipe describes."""
    limits = [config.optim.max_steps, config.optim.epochs and ceil(config.optim.epochs * steps_an_epoch)]
    return min(limit for limit in limits if limit)


def _text(plan: dict[str, Any], rows: list[Row], config: Config, estimator: Estimator) -> str:
    """The plan for a terminal."""
    work, shapes, cluster = estimator.work, estimator.shapes, estimator.cluster
    advice, cache, time, kind = plan["advice"], plan["cache"], plan["time"], cluster.kind
    means = f"{work.seconds / work.utterances:.1f} s and {work.tokens / work.utterances:.0f} LLM tokens on average"
    chosen = f"{advice['deepspeed']}: " if advice["deepspeed"] else ""
    lora = f", {shapes.lora_parameters:,} (LoRA)" if shapes.lora else ""
    items = [
        ("data", work.source),
        ("", f"{work.seconds / 3600:,.1f} h, {means}, the longest {work.longest_samples / SAMPLE_RATE:.1f} s"),
        ("parameters", f"trained: {shapes.adapter_parameters:,} (adapter){lora}; frozen: "
                       f"{shapes.encoder_parameters:,} (encoder), {shapes.llm_parameters:,} (LLM)"),
        *(("recipe", remark) for remark in plan["remarks"]),
        ("epoch", f"{counted(time['steps_per_epoch'], 'step')}: {clock(3600 * time['epoch_on_the_fly'])} on the fly, "
                  f"{clock(3600 * time['epoch_cached'])} cached"),
        ("run", f"{time['epochs']:.3g} epochs: {clock(3600 * time['run_on_the_fly'])} on the fly, "
                f"{clock(3600 * time['run_cached'])} cached"),
        ("cache", f"{in_units(int(cache['float16_bytes']))} as float16, {in_units(int(cache['int8_bytes']))} as int8; "
                  f"GPUs never wait for it if a node reads {cache['read_float16'] / 1e9:.2g} GB/s (int8: "
                  f"{cache['read_int8'] / 1e9:.2g})"),
        ("advice", chosen + advice["why"]),
    ]  # fmt: skip
    if chosen:
        batch = f"batch.tokens {advice['tokens']} and batch.micro_batches {advice['micro_batches']}"
        speed = f"{advice['on_the_fly']:,.0f} audio-hours an hour on the fly, {advice['cached']:,.0f} cached"
        items.append(("", f"{batch}: {speed}"))
    notes = [
        f"useful tokens reach {estimator.utilisation:g} of the {kind.teraflops:g} TFLOP/s of an {kind.name}: an "
        "assumption, no measurement (--utilisation; --probe measures)",
        f"PyTorch finds {cluster.bytes_each / GIB:.1f} GiB of {cluster.gigabytes:g} GB; ZeRO-3 gathers at "
        f"{cluster.link / 1e9:g} GB/s, behind the arithmetic",
        "hours leave out evaluation, saving and waiting for data; batch.layout is packed, model.dtype auto bfloat16",
    ]
    if cluster.assumed:
        notes.append(f"GPUs of {cluster.gigabytes:g} GB are taken for {kind.name} (--gpu-type says another)")
    nodes = f", {cluster.nodes} nodes of {cluster.per_node}" if cluster.nodes > 1 else ""
    lines = [f"{plan['recipe']} on {cluster.ranks} x {kind.name} of {cluster.gigabytes:g} GB{nodes}", ""]
    lines += [*_table(rows, work.longest_cost), "", *(line for item in items for line in _wrapped(*item))]
    lines += [*(f"  {command}" for command in advice["commands"]), "", "assumed:"]
    return "\n".join([*lines, *(line for note in notes for line in _wrapped("-", note))])


def _table(rows: list[Row], least_tokens: int) -> list[str]:
    """GiB by setting and use; no speed where the longest utterance does not fit."""
    cells = []
    for row in rows:
        sizes = [f"{size / GIB:.2f}" for size in (*row.memory.values(), row.total_bytes)]
        speeds = [f"{row.on_the_fly:,.0f}", f"{row.cached:,.0f}", row.limit]
        usable = row.largest_tokens >= least_tokens
        cells.append([row.name, *sizes, "yes" if row.fits else "NO", f"{row.largest_tokens:,}", *speeds * usable])
    last = ("fits", "most tokens", "audio-h/h", "cached", "limited by")
    return table(cells, ("GiB a GPU", *rows[0].memory, "total", *last))


def _wrapped(name: str, text: str) -> list[str]:
    wrapper = textwrap.TextWrapper(WIDTH, "", " " * INDENT, break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(f"{name:{INDENT}}{text}")
