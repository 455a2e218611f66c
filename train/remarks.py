"""What is printed of a run before its first step: how long it is, and what of its recipe does not suit its data."""

import os
from math import ceil

from data_prep.figures import counted
from train.data.plan import Epochs
from train.dist.collectives import World
from train.engine.schedule import warmup_steps
from train.recipe.config import Config
from train.recipe.kinds import decided

MOST_WARMUP_SHARE = 1 / 3
FEWEST_STEPS = 200  # fewer updates rarely bring an adapter to where the LLM begins to use the audio


def first_lines(config: Config, epochs: Epochs, total_steps: int, world: World) -> list[str]:
    """Steps, batch, intervals, device and threads, as they were decided."""
    steps, tokens, slots = epochs.num_steps(0), decided(config.batch.tokens), decided(config.batch.micro_batches)
    saved = "at the end of an epoch" if config.save.strategy == "epoch" else f"every {config.save.every_steps} steps"
    validated = f"every {config.eval.every_steps} steps" if config.eval.every_steps else "with each"
    validation = f", validation {validated}" if config.data.dev else ""
    ranks = f"{world.size} ranks, each with " if world.size > 1 else ""
    return [
        f"{total_steps:,} steps in all, {steps:,} an epoch ({total_steps / steps:.3g} epochs); a step has up to "
        f"{tokens * slots:,} LLM tokens in {slots} micro-batches of {tokens:,}",
        f"learning rate: {warmup_steps(config.optim, total_steps):,} steps of warm-up to {config.optim.lr:g}, then "
        f"{config.optim.schedule}; a checkpoint {saved}{validation}",
        f"device: {world.device.type}, {ranks}{os.environ.get('OMP_NUM_THREADS', '?')} threads; steps are logged in "
        f"{config.run.dir}/metrics.jsonl, every {config.log.every_steps}",
    ]


def schedule_remarks(config: Config, steps_an_epoch: int, total_steps: int) -> list[str]:
    """What of the schedule does not suit the data, with the value to set; `config` is decided (auto.py)."""
    optim, warmup, remarks = config.optim, warmup_steps(config.optim, total_steps), []
    if warmup > MOST_WARMUP_SHARE * total_steps:
        never = warmup >= total_steps and optim.schedule != "constant"
        remarks.append(
            f"the warm-up takes {warmup:,} of {total_steps:,} steps"
            + f", so the {optim.schedule} decay never begins" * never
            + f"; set optim.warmup_steps={ceil(total_steps / 10)}, or leave it to auto"
        )
    if total_steps < FEWEST_STEPS:
        epochs = f"optim.epochs={ceil(FEWEST_STEPS / steps_an_epoch)}"
        more = epochs if optim.max_steps is None else f"optim.max_steps={FEWEST_STEPS} or more"
        remarks.append(
            f"{counted(total_steps, 'step')} in all: an adapter rarely learns to transcribe in fewer than "
            f"{FEWEST_STEPS}; set {more}, or a smaller step (batch.tokens)"
        )
    return remarks


def rank_remarks(config: Config, ranks: int, longest_cost: int) -> list[str]:
    """What of the batch leaves ranks idle, with the value to set; a micro-batch must hold the longest utterance."""
    slots = decided(config.batch.micro_batches)
    if slots % ranks == 0:
        return []
    fitting = ranks * ceil(slots / ranks)
    tokens = ceil(max(longest_cost, decided(config.batch.tokens) * slots / fitting) / 10) * 10
    fault = "have nothing to do" if slots < ranks else "have one micro-batch less than the others, and wait,"
    return [
        f"{ranks - slots % ranks} of {ranks} ranks {fault} in every step, which has "
        f"{counted(slots, 'micro-batch', 'micro-batches')}; set batch.micro_batches={fitting} and batch.tokens={tokens}"
    ]
