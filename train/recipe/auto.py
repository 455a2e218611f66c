"""Decides the `auto` values of a recipe once, from the data and the device: batch size, warm-up and intervals.

    batch.tokens, batch.micro_batches    an epoch has about 200 steps, within bounds; a micro-batch fits the device
    optim.warmup_steps                   a tenth of the run, at most 1,000 steps (the paper's)
    save.every_steps, eval.every_steps   about ten checkpoints a run; validation takes at most a tenth of the time
    save.best                            the lowest WER on the dev set, if there is one
    watch.every_steps, .patience_steps   a fortieth and a quarter of the run, at most 200 and 2,000 steps

They do not depend on the number of ranks. A resumed run keeps the values that it began with."""

import math
from collections.abc import Mapping
from typing import Any

from train.recipe.config import Config
from train.recipe.kinds import decided

STEPS_AN_EPOCH = 200
LEAST_STEP, MOST_STEP = 1_000, 64_000
"""LLM tokens a step: fewer make a noisy gradient, more are of no use to an adapter of 20 M parameters."""
USUAL_MICRO_BATCHES = 8
"""As many ranks can share a step without one being idle."""
LEAST_TOKENS, MOST_TOKENS, CPU_TOKENS = 300, 8_000, 2_000
"""LLM tokens a micro-batch: below the first the work is all overhead; a GPU gains nothing beyond the second, a CPU
beyond the third."""
MOST_WARMUP = 1_000
WARMUP_SHARE = 0.1
SAVES_A_RUN, LEAST_BETWEEN, MOST_BETWEEN = 10, 10, 1_000
VALIDATION_SHARE = 0.1
"""Of the time of training; an utterance that is decoded costs about three times one that is trained on."""
DECODING_COST = 3.0
LEAST_VALIDATIONS = 3
WATCH_SHARE, LEAST_WATCH, MOST_WATCH = 1 / 40, 25, 200
PATIENCE_SHARE, LEAST_PATIENCE, MOST_PATIENCE = 1 / 4, 200, 2_000
"""A small run begins to transcribe after some hundred steps, a large one after some thousand: what is late depends on
the length of the run."""
KEPT = ("batch.tokens", "batch.micro_batches", "optim.warmup_steps")
"""The values that the weights depend on."""
ROOM = 0.6
"""Share of a GPU's memory beyond the weights that activations may take; the rest is for the allocator and NCCL."""


def keep(config: Config, recipe: Mapping[str, Any]) -> Config:
    """`config` with its `auto` values as in `recipe`, {dotted key: value} of an earlier checkpoint."""
    for key in KEPT:
        section, name = key.split(".")
        if getattr(getattr(config, section), name) == "auto" and isinstance(recipe.get(key), int):
            config = config.changed(section, **{name: recipe[key]})
    return config


def decide_batch(config: Config, total_cost: int, longest_cost: int, most_tokens: int) -> Config:
    """`config` with its batch decided.

    `total_cost` is the cost of an epoch and `longest_cost` that of its longest utterance, in tokens as plan.cost_of
    counts them; `most_tokens` is what the device holds in a micro-batch."""
    tokens, slots = config.batch.tokens, config.batch.micro_batches
    wanted = min(max(total_cost // STEPS_AN_EPOCH, LEAST_STEP), MOST_STEP)
    if slots == "auto":  # a power of two, so that accumulation divides without rounding
        if tokens != "auto":
            slots = 2 ** max(0, round(math.log2(wanted / tokens)))
        else:
            slots = USUAL_MICRO_BATCHES
            while slots > 2 and wanted / slots < max(longest_cost, LEAST_TOKENS):
                slots //= 2
            while wanted / slots > most_tokens:
                slots *= 2
    if tokens == "auto":
        tokens = max(longest_cost, min(math.ceil(wanted / slots), most_tokens))
        tokens = -(-tokens // 10) * 10
    return config.changed("batch", tokens=tokens, micro_batches=slots)


def decide_steps(config: Config, total_steps: int, dev_cost: int) -> Config:
    """`config` with warm-up, intervals and save.best decided, for a run of `total_steps`; `dev_cost` is that of the dev
    set."""
    if config.optim.warmup_steps == "auto":
        config = config.changed("optim", warmup_steps=min(MOST_WARMUP, math.ceil(WARMUP_SHARE * total_steps)))
    save_every = config.save.every_steps
    if save_every == "auto":
        save_every = min(max(math.ceil(total_steps / SAVES_A_RUN), LEAST_BETWEEN), MOST_BETWEEN)
        config = config.changed("save", every_steps=save_every)
    if config.eval.every_steps == "auto":
        every = None  # at every save
        if config.save.strategy == "steps":
            saves = max(1, math.ceil(evaluation_steps(config, dev_cost) / VALIDATION_SHARE / save_every))
            every = min(save_every * saves, max(save_every, math.ceil(total_steps / LEAST_VALIDATIONS)))
        config = config.changed("eval", every_steps=every)
    if config.save.best == "auto":
        best = "none" if not config.data.dev else "wer" if config.eval.wer else "loss"
        config = config.changed("save", best=best)
    if config.watch.every_steps == "auto":
        watch_every = min(max(math.ceil(WATCH_SHARE * total_steps), LEAST_WATCH), MOST_WATCH)
        config = config.changed("watch", every_steps=watch_every)
    if config.watch.patience_steps == "auto":
        patience = min(max(math.ceil(PATIENCE_SHARE * total_steps), LEAST_PATIENCE), MOST_PATIENCE)
        config = config.changed("watch", patience_steps=patience)
    return config


def eval_every(config: Config, steps_an_epoch: int) -> int:
    """Steps between two evaluations, of a decided recipe."""
    by_epoch = config.eval.every_steps is None and config.save.strategy == "epoch"
    return steps_an_epoch if by_epoch else decided(config.eval.every_steps or config.save.every_steps)


def evaluation_steps(config: Config, dev_cost: int) -> float:
    """The training steps that take about as long as an evaluation of a dev set of this cost."""
    step = decided(config.batch.tokens) * decided(config.batch.micro_batches)
    return dev_cost * (DECODING_COST if config.eval.wer else 1.0) / step


def tokens_that_fit(config: Config, llm: Any, frozen_bytes: int, device_bytes: int | None, value_bytes: int) -> int:
    """LLM tokens of a micro-batch that a device holds beside `frozen_bytes` of weights.

    `llm` is the LLM's configuration; a device of None bytes is a CPU. For the backward pass a layer keeps about five
    values of its width and three of its MLP's width per token, with LoRA twice as many; with activation checkpointing
    one value of its width, and all of them in one layer at a time. Logits: two float32 values for one token in four."""
    if device_bytes is None:
        return CPU_TOKENS
    text = llm.get_text_config()
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    layer = (5 * text.hidden_size + 3 * inner) * (2 if config.lora.rank else 1)
    depth = text.num_hidden_layers
    layers = (
        depth * text.hidden_size + layer if config.model.activation_checkpointing else depth * layer
    ) * value_bytes
    free = ROOM * max(0, device_bytes - frozen_bytes)
    return max(LEAST_TOKENS, min(MOST_TOKENS, int(free / (layers + 2 * text.vocab_size))))
