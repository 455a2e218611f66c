"""What to do: which file of ds_configs/, which batch, whether to cache, and the command lines."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.plan.estimate import Cache, Estimate, Row, Time, cache_of, time_of
from launch.plan.gpus import GIB, Cluster
from launch.plan.lengths import Work
from launch.plan.shapes import Shapes
from launch.plan.speed import Pace, Rig, pace
from launch.plan.zero import Setting
from train.recipe.config import Config
from train.recipe.kinds import decided

ORDER = ("zero0", "zero3", "zero3_offload")
"""Stages 1 and 2 are left out: they share out the states of the adapter, a few hundred MB, and leave frozen weights and
activations as they are, while their step takes longer (bench/RESULTS.md, goal 8)."""
HEADROOM = 0.9
"""Of the largest batch.tokens, what is advised: predictions of the peak were within a few percent of what was measured
on a CPU (tests/launch/test_plan_verb.py), and a GPU's allocator leaves gaps."""
WORTH_CACHING = 1.05
"""Times as fast as on the fly: less is within what a prediction is worth."""


@dataclass(frozen=True)
class Advice:
    """All that follows from an Estimate."""

    deepspeed: str | None
    """Name in ds_configs/; None where nothing fits."""
    why: str
    tokens: int
    micro_batches: int
    batch_why: str
    on_the_fly: float
    """Audio-hours an hour with that batch."""
    cached: float
    time: Time | None
    """With that batch, as is all that follows."""
    cache: Cache | None
    caching: str
    commands: list[str]


def advise(
    config: Config,
    recipe: Path,
    overrides: Sequence[str],
    shapes: Shapes,
    work: Work,
    found: Estimate,
    settings: Sequence[Setting],
    rig: Rig,
) -> Advice:
    """For the recipe on these GPUs. Of the settings the first that takes the longest utterance."""
    rows, cluster = {row.name: row for row in found.rows}, rig.cluster
    name = next((name for name in ORDER if rows[name].largest_tokens >= found.least_tokens), None)
    if name is None:
        return Advice(None, _nothing_fits(rows[ORDER[-1]], found, cluster), 0, 0, "", 0, 0, None, None, "", [])
    setting = next(setting for setting in settings if setting.name == name)

    def paced(tokens: int, cached: bool = work.cached) -> Pace:
        return pace(setting, shapes, work, cached, tokens, 1, rig)

    tokens, micro_batches, batch_why = _batch(config, rows[name], found, cluster, paced)
    fly, cached = (paced(tokens, there).audio_hours_per_hour for there in (False, True))
    decided = config.changed("batch", tokens=tokens, micro_batches=micro_batches)
    time = time_of(decided, work, fly, cached)
    commands = _commands(name, recipe, overrides, tokens, micro_batches, config, cluster)
    cache = cache_of(config, shapes, work, cluster, time)
    pays, caching = _caching(work, time, cache)
    if pays and not config.data.write_features:
        commands.append(f"{commands[0]} data.write_features=features/train")
    return Advice(
        name, _why(name, rows, found), tokens, micro_batches, batch_why, fly, cached, time, cache, caching, commands
    )


def _why(name: str, rows: dict[str, Row], found: Estimate) -> str:
    if name == "zero0":
        if found.step.ranks == 1:
            return "everything fits, and one GPU has nobody to share it out with"
        saved = (rows["zero0"].memory.adapter - rows["zero2"].memory.adapter) / GIB
        return (
            f"everything fits on each GPU; ZeRO-1 and 2 would share out {max(0.0, saved):.2f} GiB of the adapter's "
            "states and make the step slower, ZeRO-3 would send the LLM's weights twice for every micro-batch"
        )
    plain = rows["zero0"]
    unfit = (
        f"unsharded, {(plain.total_bytes - plain.memory.activations) / GIB:,.1f} GiB are taken before any activation"
    )
    if name == "zero3":
        return f"{unfit}, no room for an utterance of {found.least_tokens:,} tokens; stage 3 shares the LLM out"
    return f"{unfit}, and stage 3 is too much too; with the offload the LLM stays on the host ({_host(rows[name])})"


def _host(row: Row) -> str:
    return f"up to {row.memory.host / GIB:,.0f} GiB of memory a node while it is read"


def _nothing_fits(least: Row, found: Estimate, cluster: Cluster) -> str:
    taken = (least.total_bytes - least.memory.activations) / GIB
    return (
        f"nothing fits: with the LLM on the host {taken:,.1f} GiB are taken of {cluster.bytes_each / GIB:g} before any "
        f"activation, no room for the longest utterance ({found.least_tokens:,} tokens); "
        "take larger GPUs, a smaller LLM, cached features, or a smaller data.max_seconds"
    )


def _batch(
    config: Config, row: Row, found: Estimate, cluster: Cluster, paced: Callable[[int], Pace]
) -> tuple[int, int, str]:
    """batch.tokens and micro_batches of the recipe's step, dealt so that no rank is idle; and the reason.

    The recipe's own where they do that and are large enough to be bound by arithmetic; else as few and large ones as
    fit.
    """
    ranks, own_tokens, own_slots = cluster.ranks, decided(config.batch.tokens), decided(config.batch.micro_batches)
    most = max(found.least_tokens, int(HEADROOM * row.largest_tokens))
    wanted = own_tokens * own_slots
    slots = max(1, -(-wanted // (ranks * most)))
    tokens = min(most, max(found.least_tokens, round(wanted / (ranks * slots))))
    whole_step = own_slots % ranks == 0 and found.least_tokens <= own_tokens <= most
    if whole_step and paced(own_tokens).limit == "arithmetic":
        tokens, slots = own_tokens, own_slots // ranks
    shares = f"{slots} micro-batch{'es' * (slots > 1)} a rank"
    why = f"a step of {tokens * ranks * slots:,} tokens, the recipe's has {wanted:,}, {shares}"
    if tokens * ranks * slots > 1.2 * wanted:
        why += (
            "; it grows, as a micro-batch must take the longest utterance: fewer GPUs or a smaller data.max_seconds "
            "would shrink it"
        )
    bound, faster = paced(tokens).limit, paced(most).audio_hours_per_hour / paced(tokens).audio_hours_per_hour
    if bound != "arithmetic" and faster > WORTH_CACHING:
        larger = (
            f"batch.tokens up to {most:,} would be up to {faster:.1f} times as fast"
            if faster < 10
            else "a larger batch.tokens would be many times as fast"
        )
        why += f"; GPUs wait for {bound}: {larger}, in a larger step"
    return tokens, ranks * slots, why


def _caching(work: Work, time: Time, cache: Cache) -> tuple[bool, str]:
    """Whether it pays, and what to say, with the advised batch."""
    epochs, gain = time.epochs, cache.gain
    if work.cached:
        return False, f"the recipe reads cached frames; on the fly an epoch would take {gain:.2f} times as long"
    if not cache.possible:
        return False, "cannot be: augment changes speed or adds noise, so an epoch's frames are no other's"
    if epochs <= 1:
        return False, f"does not pay in {epochs:.2g} epochs: frames are first used in the second"
    if gain < WORTH_CACHING:
        return False, f"does not pay: an epoch would be {gain:.2f} times as fast"
    return True, (
        "pays from the second epoch on (data.write_features fills the cache in the first, as the encoder runs anyway): "
        f"an epoch is {gain:.2f} times as fast, the run of {epochs:.3g} epochs {cache.run_gain:.2f} times, if a node "
        f"reads {cache.enough_float16 / 1e9:.2g} GB/s (int8: {cache.enough_int8 / 1e9:.2g})"
    )


def _commands(
    name: str, recipe: Path, overrides: Sequence[str], tokens: int, micro_batches: int, config: Config, cluster: Cluster
) -> list[str]:
    ours = {"batch.tokens": tokens, "batch.micro_batches": micro_batches}
    stated = {"batch.tokens": config.batch.tokens, "batch.micro_batches": config.batch.micro_batches}
    kept = [text for text in overrides if text.partition("=")[0] not in ours]
    changed = [f"{key}={value}" for key, value in ours.items() if value != stated[key] or len(kept) < len(overrides)]
    rest = [str(recipe), *kept, *changed, *(["--deepspeed", name] if name != "zero0" else [])]
    if cluster.ranks == 1:
        return [shlex.join(["python", "-m", "train", *rest])]
    if cluster.nodes == 1:
        return [shlex.join(["deepspeed", "--num_accelerators", str(cluster.per_node), "--module", "train", *rest])]
    slurm = ["submit", *rest, "--nodes", str(cluster.nodes), "--gpus-per-node", str(cluster.per_node)]
    return [shlex.join(["slam-asr", *verb]) for verb in (slurm, ["launch", "hostfile", "HOSTFILE", *rest])]
