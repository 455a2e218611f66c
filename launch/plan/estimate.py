"""Memory and speed with each file of ds_configs/, and which of them to start.

Only adapter and LoRA are trained, so only they have gradients (4 bytes a weight), AdamW's moments (8) and, from stage 1
on, a flat float32 copy (4) that is sharded over R ranks. Stage 3 shards the LLM too; the encoder is outside the module
tree (model/slam_asr.py) and stays whole on every GPU."""

import shlex
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from launch.plan.data import Work
from launch.plan.gpus import GIB, Cluster
from launch.plan.shapes import Shapes, layers_of
from launch.plan.simulation import FLOAT32, StepCost, simulate
from train.recipe.config import Config
from train.recipe.deepspeed_json import read_deepspeed_json
from train.recipe.kinds import decided

FOLDER = Path(__file__).parents[2] / "ds_configs"
NAMES = ("zero0", "zero1", "zero2", "zero3", "zero3_offload")
RESERVE = 2 * GIB
"""What is not simulated: CUDA's context and kernels (about half of a GiB), workspaces of cuBLAS and cuDNN, NCCL's
buffers (up to one), and the gaps of the allocator. An allowance, not a measurement."""
DEFAULTS = {
    "reduce_bucket_size": 500_000_000,
    "stage3_max_live_parameters": 1_000_000_000,
    "stage3_prefetch_bucket_size": 50_000_000,
}
"""DeepSpeed's own, in elements."""
MOST_TOKENS = 1 << 22
"""The largest micro-batch that is considered: 76 hours of speech."""
LAUNCH = 5e-6
"""Seconds to launch a kernel. An assumption, as are the counts of kernels."""
LLM_KERNELS, ENCODER_KERNELS, UTTERANCE_KERNELS = 80, 20, 25
"""Of a layer of the LLM, forward and backward; of a layer of the encoder; of an utterance's convolutions."""
ORDER = ("zero0", "zero3", "zero3_offload")
"""Stages 1 and 2 are left out: they shard the states of the adapter, a few hundred MB, and leave frozen weights and
activations as they are, while their step takes longer (bench/RESULTS.md, goal 8)."""
HEADROOM = 0.9
"""Of the largest batch.tokens, what is advised: a GPU's allocator leaves gaps."""


@dataclass(frozen=True)
class Row:
    """A file of ds_configs/ with the recipe's batch.tokens."""

    name: str
    memory: dict[str, float]  # bytes of a GPU by use
    total_bytes: float
    fits: bool
    largest_tokens: int  # the largest batch.tokens that fits, a multiple of 100; 0 where none does
    on_the_fly: float  # audio-hours an hour on all GPUs, the encoder running
    cached: float  # the same from cached frames
    limit: str  # what the time on the fly goes to


@dataclass(frozen=True)
class Estimator:
    """Predicts from models, data and GPUs; `utilisation` is the share of the GPUs' peak that useful tokens reach."""

    shapes: Shapes
    work: Work
    cluster: Cluster
    utilisation: float

    @cached_property
    def cost(self) -> StepCost:
        """Of a micro-batch of mean utterances. UserError for an LLM that cannot be simulated."""
        return simulate(self.shapes, self.work.mean(self.shapes), self.work.longest_samples, self.work.prompt_tokens)

    def row(self, name: str, tokens: int, busy: float) -> Row:
        """The setting `name` on ranks that compute for this share of the time."""
        memory = self.memory(name, tokens)
        total, cached = sum(memory.values()), self.speed(name, True, tokens, busy)[0]
        on_the_fly, limit = self.speed(name, False, tokens, busy)
        fits = total <= self.cluster.bytes_each and self.possible(name)
        return Row(name, memory, total, fits, self.largest(name), on_the_fly, cached, limit)

    def possible(self, name: str) -> bool:
        """Whether training supports this file: ZeRO-3 cannot shard quantised weights."""
        return read_zero(name)["stage"] < 3 or self.shapes.shardable

    def memory(self, name: str, tokens: int) -> dict[str, float]:
        """Bytes of a GPU by use, with micro-batches of so many LLM tokens."""
        shapes, zero = self.shapes, read_zero(name)
        stage, sizes, bytes_each = zero["stage"], DEFAULTS | zero, shapes.dtype.itemsize
        llm, encoder = shapes.llm_bytes, shapes.encoder_bytes
        whole, sharded = ((16, 0), (8, 12), (4, 16), (0, 20))[stage]  # weight, gradient, moments, and the flat copy
        if stage == 0:  # the gradients once more, flat, to be added up over the ranks
            buckets = FLOAT32 * shapes.trained_parameters if self.cluster.ranks > 1 else 0
        else:
            buckets = FLOAT32 * sizes["reduce_bucket_size"] * (2 if zero.get("overlap_comm", stage == 3) else 1)
        if stage == 3:  # and the weights that are gathered at a time
            llm = 0 if _offloads(name) else llm / self.cluster.ranks
            live = max(min(sizes["stage3_max_live_parameters"], shapes.llm_parameters), shapes.widest_module)
            buckets += bytes_each * (live + sizes["stage3_prefetch_bucket_size"]) + FLOAT32 * shapes.trained_parameters
        return {
            "frozen": llm + (0 if self.work.cached else encoder),
            "trained": shapes.trained_parameters * (whole + sharded / self.cluster.ranks),
            "buckets": buckets,
            "activations": self.cost.peak(tokens, self.work.cached, zero3=stage == 3),
            "reserve": RESERVE,
        }

    def largest(self, name: str) -> int:
        """The most tokens a micro-batch whose step fits, a multiple of 100; 0 where none does."""
        if not self.possible(name):
            return 0
        sizes = range(100, MOST_TOKENS, 100)
        return 100 * bisect_right(
            sizes, self.cluster.bytes_each, key=lambda size: sum(self.memory(name, size).values())
        )

    def speed(self, name: str, cached: bool, tokens: int, busy: float = 1.0) -> tuple[float, str]:
        """Audio-hours an hour of all GPUs with micro-batches of `tokens`, and what the time goes to.

        A micro-batch takes at least as long as its kernels take to be launched, however small it is. In stage 3 every
        rank gathers the LLM's weights forward and again backward, for each micro-batch: 2 x bytes x (R - 1) / R over
        the link. An offload also brings each rank's part from the host, twice. All these are assumed to overlap
        wholly, which is the best case: only the slowest counts."""
        cluster, shapes, work = self.cluster, self.shapes, self.work
        utterances, at = work.utterances * tokens / work.cost, self.cost.at(1)
        flops, kernels = at.flops, LLM_KERNELS * layers_of(shapes.llm)
        if not cached:
            flops += at.encoder_flops
            kernels += ENCODER_KERNELS * shapes.encoder_layers.last + UTTERANCE_KERNELS * utterances
        per_second = 1e12 * cluster.kind.teraflops * self.utilisation
        times = {"arithmetic": utterances * flops / per_second, "launching kernels": LAUNCH * kernels}
        llm = shapes.llm_bytes
        if read_zero(name)["stage"] == 3 and cluster.ranks > 1:
            times["gathering"] = 2 * llm * (cluster.ranks - 1) / cluster.ranks / cluster.link
        if _offloads(name):
            times["the host's link"] = 2 * llm / cluster.ranks / (1e9 * cluster.kind.host)
        limit = max(times, key=lambda name: times[name])
        return cluster.ranks * busy * utterances * work.seconds / work.utterances / times[limit], limit

    def hours(self, config: Config, row: Row) -> dict[str, float]:
        """Of an epoch and a run of a decided recipe (train/recipe/auto.py), without evaluation and saving. `run_cached`
        has its first epoch on the fly, unless the recipe reads cached frames."""
        steps, optim, total = self.work.steps(config), config.optim, self.work.seconds / 3600
        limits = (optim.epochs, optim.max_steps / steps if optim.max_steps else None)
        epochs = min(limit for limit in limits if limit is not None)
        on_the_fly, cached = total / row.on_the_fly, total / row.cached
        first = 0.0 if self.work.cached else min(1.0, epochs)
        return {
            "epochs": epochs,
            "steps_per_epoch": steps,
            "epoch_on_the_fly": on_the_fly,
            "epoch_cached": cached,
            "run_on_the_fly": epochs * on_the_fly,
            "run_cached": first * on_the_fly + (epochs - first) * cached,
        }

    def cache(self, audio_hours_per_hour: float) -> dict[str, float]:
        """Bytes of an epoch's frames as data_prep keeps them (int8 with a float16 scale a frame), and the bytes a
        second that a node must read so that no GPU waits for them."""
        width, frames = self.shapes.adapter.frame_dim, self.work.frames
        float16, int8 = 2 * width * frames, (width + 2) * frames
        seconds = self.work.seconds / audio_hours_per_hour * self.cluster.nodes
        read = {"read_float16": float16 / seconds, "read_int8": int8 / seconds}
        return {"float16_bytes": float16, "int8_bytes": int8, **read}


@cache
def read_zero(name: str) -> dict[str, Any]:
    """The zero_optimization of a file in ds_configs/."""
    return read_deepspeed_json(FOLDER / f"{name}.json")["zero_optimization"]


def _offloads(name: str) -> bool:
    return read_zero(name).get("offload_param", {}).get("device", "none") != "none"


def advise(config: Config, command: Sequence[str], estimator: Estimator, rows: Sequence[Row]) -> dict[str, Any]:
    """The first of ORDER that takes the longest utterance, or deepspeed None; a batch, and audio-hours an hour with it.
    `command` is the recipe and its overrides."""
    cluster, least = estimator.cluster, estimator.work.longest_cost
    by_name = {row.name: row for row in rows}
    taken = {row.name: (row.total_bytes - row.memory["activations"]) / GIB for row in rows}
    name = next((name for name in ORDER if by_name[name].largest_tokens >= least), None)
    if name is None:
        why = (
            f"nothing fits: with the LLM on the host {taken['zero3_offload']:,.1f} GiB are taken of "
            f"{cluster.bytes_each / GIB:.3g} before any activation, no room for the longest utterance ({least:,} "
            "tokens); take larger GPUs, a smaller LLM, cached features, or a smaller data.max_seconds"
        )
        return {"deepspeed": None, "why": why, "cached": rows[0].cached, "commands": []}
    unfit = f"unsharded, {taken['zero0']:,.1f} GiB are taken before any activation"
    why = {
        "zero0": "everything fits on each GPU",
        "zero3": f"{unfit}, no room for an utterance of {least:,} tokens; stage 3 shards the LLM",
        "zero3_offload": f"{unfit}, and stage 3 does not fit either; with the offload the LLM stays on the host",
    }[name]
    tokens, micro_batches = _batch(config, estimator, by_name[name])
    ours = {"batch.tokens": tokens, "batch.micro_batches": micro_batches}
    own = {"batch.tokens": config.batch.tokens, "batch.micro_batches": config.batch.micro_batches}
    rest = [text for text in command if text.partition("=")[0] not in ours]
    rest += [f"{key}={value}" for key, value in ours.items() if value != own[key] or len(rest) < len(command)]
    return {
        "deepspeed": name,
        "why": why,
        "tokens": tokens,
        "micro_batches": micro_batches,
        "on_the_fly": estimator.speed(name, False, tokens)[0],
        "cached": estimator.speed(name, True, tokens)[0],
        "commands": _commands(cluster, [*rest, *(["--deepspeed", name] if name != "zero0" else [])]),
    }


def _batch(config: Config, estimator: Estimator, row: Row) -> tuple[int, int]:
    """batch.tokens and micro_batches of the recipe's step, such that no rank is idle.

    The recipe's own where they do that and are large enough to be bound by arithmetic; else as few and large ones as
    fit."""
    ranks, least = estimator.cluster.ranks, estimator.work.longest_cost
    tokens, micro_batches = decided(config.batch.tokens), decided(config.batch.micro_batches)
    most = max(least, int(HEADROOM * row.largest_tokens))
    limit = estimator.speed(row.name, estimator.work.cached, tokens)[1]
    if micro_batches % ranks == 0 and least <= tokens <= most and limit == "arithmetic":
        return tokens, micro_batches
    each = max(1, -(-tokens * micro_batches // (ranks * most)))
    return min(most, max(least, round(tokens * micro_batches / (ranks * each)))), ranks * each


def _commands(cluster: Cluster, arguments: Sequence[str]) -> list[str]:
    """What starts a training with these arguments on all GPUs."""
    if cluster.ranks == 1:
        return [shlex.join(["python", "-m", "train", *arguments])]
    if cluster.nodes == 1:
        return [shlex.join(["deepspeed", "--num_accelerators", str(cluster.per_node), "--module", "train", *arguments])]
    slurm = ["submit", *arguments, "--nodes", str(cluster.nodes), "--gpus-per-node", str(cluster.per_node)]
    return [shlex.join(["slam-asr", *verb]) for verb in (slurm, ["launch", "hostfile", "HOSTFILE", *arguments])]
