"""What to do: which file of ds_configs/, which batch, and the commands to type."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from launch.plan.estimate import Cache, Estimator, Row, read_zero
from launch.plan.gpus import GIB, Cluster
from train.recipe.config import Config
from train.recipe.kinds import decided

ORDER = ("zero0", "zero3", "zero3_offload")
"""Stages 1 and 2 are left out: they shard the states of the adapter, a few hundred MB, and leave frozen weights and
activations as they are, while their step takes longer (bench/RESULTS.md, goal 8)."""
HEADROOM = 0.9
"""Of the largest batch.tokens, what is advised: a GPU's allocator leaves gaps."""


@dataclass(frozen=True)
class Advice:
    """A file of ds_configs/ (None where nothing fits), a batch, and the cache and audio-hours an hour with it."""

    deepspeed: str | None
    why: str
    cache: Cache
    tokens: int = 0
    micro_batches: int = 0
    on_the_fly: float = 0.0
    cached: float = 0.0
    commands: tuple[str, ...] = ()


def advise(config: Config, command: Sequence[str], estimator: Estimator, rows: Sequence[Row]) -> Advice:
    """Of the settings the first that takes the longest utterance; `command` is the recipe and its overrides."""
    cluster, least = estimator.cluster, estimator.work.longest_cost
    by_name = {row.name: row for row in rows}
    taken = {row.name: (row.total_bytes - row.memory.activations) / GIB for row in rows}
    name = next((name for name in ORDER if by_name[name].largest_tokens >= least), None)
    if name is None:
        why = (
            f"nothing fits: with the LLM on the host {taken['zero3_offload']:,.1f} GiB are taken of "
            f"{cluster.bytes_each / GIB:.3g} before any activation, no room for the longest utterance ({least:,} "
            "tokens); take larger GPUs, a smaller LLM, cached features, or a smaller data.max_seconds"
        )
        return Advice(None, why, estimator.cache(rows[0].cached))
    unfit = f"unsharded, {taken['zero0']:,.1f} GiB are taken before any activation"
    why = {
        "zero0": "everything fits on each GPU",
        "zero3": f"{unfit}, no room for an utterance of {least:,} tokens; stage 3 shards the LLM",
        "zero3_offload": f"{unfit}, and stage 3 does not fit either; with the offload the LLM stays on the host",
    }[name]
    tokens, micro_batches = _batch(config, estimator, by_name[name])
    fly, cached = (estimator.speed(read_zero(name), cached, tokens)[0] for cached in (False, True))
    cache = estimator.cache(cached)
    commands = _commands(name, command, tokens, micro_batches, config, cluster)
    return Advice(name, why, cache, tokens, micro_batches, fly, cached, tuple(commands))


def _batch(config: Config, estimator: Estimator, row: Row) -> tuple[int, int]:
    """batch.tokens and micro_batches of the recipe's step, dealt so that no rank is idle.

    The recipe's own where they do that and are large enough to be bound by arithmetic; else as few and large ones as
    fit.
    """
    ranks, least = estimator.cluster.ranks, estimator.work.longest_cost
    tokens, micro_batches = decided(config.batch.tokens), decided(config.batch.micro_batches)
    most = max(least, int(HEADROOM * row.largest_tokens))
    limit = estimator.speed(read_zero(row.name), estimator.work.cached, tokens)[1]
    if micro_batches % ranks == 0 and least <= tokens <= most and limit == "arithmetic":
        return tokens, micro_batches
    each = max(1, -(-tokens * micro_batches // (ranks * most)))
    return min(most, max(least, round(tokens * micro_batches / (ranks * each)))), ranks * each


def _commands(
    name: str, command: Sequence[str], tokens: int, micro_batches: int, config: Config, cluster: Cluster
) -> list[str]:
    """What starts the training, with the advised batch in place of the recipe's."""
    ours = {"batch.tokens": tokens, "batch.micro_batches": micro_batches}
    own = {"batch.tokens": config.batch.tokens, "batch.micro_batches": config.batch.micro_batches}
    kept = [text for text in command if text.partition("=")[0] not in ours]
    changed = [f"{key}={value}" for key, value in ours.items() if value != own[key] or len(kept) < len(command)]
    rest = [*kept, *changed, *(["--deepspeed", name] if name != "zero0" else [])]
    if cluster.ranks == 1:
        return [shlex.join(["python", "-m", "train", *rest])]
    if cluster.nodes == 1:
        return [shlex.join(["deepspeed", "--num_accelerators", str(cluster.per_node), "--module", "train", *rest])]
    slurm = ["submit", *rest, "--nodes", str(cluster.nodes), "--gpus-per-node", str(cluster.per_node)]
    return [shlex.join(["slam-asr", *verb]) for verb in (slurm, ["launch", "hostfile", "HOSTFILE", *rest])]
