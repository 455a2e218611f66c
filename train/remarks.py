"""What is said of a run before its first step: how long it is, and what of its recipe does not suit its data."""

import os
from math import ceil

from data_prep.figures import counted
from train.data.plan import Epochs
from train.dist.collectives import World
from train.engine.schedule import warmup_steps
from train.recipe.config import Config
from train.recipe.kinds import decided

MOST_WARMUP_SHARE = 1 / 3
FEWEST_STEPS = 200
"""Fewer updates rarely bring an adapter to where the LLM begins to use the audio."""


def first_lines(config: Config, epochs: Epochs, total_steps: int, world: World) -> list[str]:
    """Steps, batch, intervals, device and threads, as they were decided."""
    batch, steps = config.batch, epochs.num_steps(0)
    tokens, slots = decided(batch.tokens), decided(batch.micro_batches)
    evaluated = config.eval.every_steps if config.data.dev else None
    saved = "at the end of an epoch" if config.save.strategy == "epoch" else f"every {config.save.every_steps} steps"
    validated = (
        f", validation every {evaluated} steps" if evaluated else ", validation with each" if config.data.dev else ""
    )
    ranks = f"{world.size} ranks, each with " if world.size > 1 else ""
    return [
        f"{total_steps:,} steps in all, {steps:,} an epoch ({total_steps / steps:.3g} epochs); a step has up to "
        f"{tokens * slots:,} LLM tokens in {slots} micro-batches of {tokens:,}",
        f"learning rate: {warmup_steps(config.optim, total_steps):,} steps of warm-up to {config.optim.lr:g}, then "
        f"{config.optim.schedule}; a checkpoint {saved}{validated}",
        f"device: {world.device.type}, {ranks}{os.environ.get('OMP_NUM_THREADS', '?')} threads; steps are logged in "
        f"{config.run.dir}/metrics.jsonl, every {config.log.every_steps}",
    ]


def schedule_remarks(config: Config, steps_an_epoch: int, total_steps: int) -> list[str]:
    """What of the schedule does not suit the data, with the value to set; `config` is decided (auto.py)."""
    optim, warmup = config.optim, warmup_steps(config.optim, total_steps)
    fitting = f"set optim.warmup_steps={ceil(total_steps / 10)}, or leave it to auto"
    takes = f"the warm-up takes {warmup:,} of {total_steps:,} steps"
    lines = []
    if warmup >= total_steps and optim.schedule != "constant":
        lines.append(f"the {optim.schedule} decay never begins, as {takes}; {fitting}")
    elif warmup > MOST_WARMUP_SHARE * total_steps:
        lines.append(f"{takes}; {fitting}")
    if total_steps < FEWEST_STEPS:
        epochs = f"optim.epochs={ceil(FEWEST_STEPS / steps_an_epoch)}"
        more = epochs if optim.max_steps is None else f"optim.max_steps={FEWEST_STEPS} or more"
        lines.append(
            f"{counted(total_steps, 'step')} in all: an adapter rarely learns to transcribe in fewer than "
            f"{FEWEST_STEPS}; set {more}, or a smaller step (batch.tokens)"
        )
    return lines


def rank_remarks(config: Config, ranks: int, longest_cost: int) -> list[str]:
    """What of the batch leaves ranks idle, with the value to set; a micro-batch must hold the longest utterance."""
    slots = decided(config.batch.micro_batches)
    if slots % ranks == 0:
        return []
    fitting = ranks * ceil(slots / ranks)
    tokens = ceil(max(longest_cost, decided(config.batch.tokens) * slots / fitting) / 10) * 10
    idle = f"{ranks - slots % ranks} of {ranks} ranks"
    what = (
        "have nothing to do" if slots < ranks else "have one micro-batch less than the others, and wait, in every step"
    )
    return [
        f"{idle} {what}: a step has {slots} micro-batch{'es' * (slots > 1)}; set "
        f"batch.micro_batches={fitting} and batch.tokens={tokens}"
    ]
