"""What each file of ds_configs/ makes of memory and speed.

Only the adapter is trained, so only it has gradients (4 bytes a weight), AdamW's moments (8) and, from stage 1 on, a
flat float32 copy (4) that is sharded over R ranks. Stage 3 shards the LLM too; the encoder is outside the module tree
(model/slam_asr.py) and stays whole on every GPU.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.plan.data import Work
from launch.plan.gpus import GIB, Cluster
from launch.plan.shapes import Shapes, layers_of
from launch.plan.simulation import FLOAT32, StepCost, simulate
from train.recipe.config import Config
from train.recipe.deepspeed_json import read_deepspeed_json

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
"""Nothing is looked for beyond: 4 million tokens are 76 hours of speech in one micro-batch."""
LAUNCH = 5e-6
"""Seconds to launch a kernel. An assumption, as are the counts of kernels."""
LLM_KERNELS, ENCODER_KERNELS, UTTERANCE_KERNELS = 80, 20, 25
"""Of a layer of the LLM, forward and backward; of a layer of the encoder; of an utterance's convolutions."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU: `adapter` with gradients and optimizer states, `buckets` with the weights that stage 3 gathers
    at a time.
    """

    frozen: float
    adapter: float
    buckets: float
    activations: float
    reserve: float


@dataclass(frozen=True)
class Row:
    """One setting with the recipe's batch.tokens; audio-hours an hour on all GPUs, the encoder running `on_the_fly` or
    its frames `cached`; `limit` is what the time on the fly goes to.
    """

    name: str
    memory: Memory
    total_bytes: float
    fits: bool
    largest_tokens: int
    """The largest batch.tokens that fits, a multiple of 100; 0 where none does."""
    on_the_fly: float
    cached: float
    limit: str


@dataclass(frozen=True)
class Hours:
    """Of the recipe as it stands, without evaluation and saving; `run_cached` has its first epoch on the fly, unless
    the recipe reads cached frames.
    """

    epochs: float
    steps_per_epoch: int
    epoch_on_the_fly: float
    epoch_cached: float
    run_on_the_fly: float
    run_cached: float


@dataclass(frozen=True)
class Cache:
    """Frames kept by `prep features` or data.write_features, and the bytes a second that a node must read so that no
    GPU waits for them.
    """

    float16_bytes: float
    int8_bytes: float
    read_float16: float
    read_int8: float


@dataclass(frozen=True)
class Estimator:
    """All that predictions follow from."""

    shapes: Shapes
    work: Work
    cluster: Cluster
    utilisation: float
    """Share of the GPUs' peak that useful tokens reach."""
    cost: StepCost

    @classmethod
    def of(cls, shapes: Shapes, work: Work, cluster: Cluster, utilisation: float) -> Estimator:
        cost = simulate(shapes, work.mean(shapes), work.longest_samples, work.prompt_tokens)
        return cls(shapes, work, cluster, utilisation, cost)

    @property
    def host_bytes(self) -> float:
        """Of a node's memory while weights are read: each rank reads the whole LLM into it."""
        return self.shapes.dtype.itemsize * self.shapes.llm_parameters * self.cluster.per_node

    def row(self, name: str, tokens: int, busy: float) -> Row:
        """The setting `name` on ranks that compute for this share of the time."""
        zero = read_zero(name)
        memory, total = self.memory(zero, tokens), self.total(zero, tokens)
        fly, cached = (self.speed(zero, cached, tokens, busy) for cached in (False, True))
        return Row(name, memory, total, total <= self.cluster.bytes_each, self.largest(zero), fly[0], cached[0], fly[1])

    def memory(self, zero: dict[str, Any], tokens: int) -> Memory:
        """With micro-batches of so many LLM tokens."""
        shapes, ranks, stage = self.shapes, self.cluster.ranks, zero["stage"]
        llm = shapes.dtype.itemsize * shapes.llm_parameters
        encoder = 0 if self.work.cached else shapes.dtype.itemsize * shapes.encoder_parameters
        whole, sharded = ((16, 0), (8, 12), (4, 16), (0, 20))[stage]  # weight, gradient, moments, and the flat copy
        return Memory(
            frozen=encoder + (llm if stage < 3 else 0 if _offloads(zero) else llm / ranks),
            adapter=shapes.adapter_parameters * (whole + sharded / ranks),
            buckets=self._buckets(zero),
            activations=self.cost.peak(tokens, self.work.cached, zero3=stage == 3),
            reserve=RESERVE,
        )

    def total(self, zero: dict[str, Any], tokens: int) -> float:
        return sum(vars(self.memory(zero, tokens)).values())

    def largest(self, zero: dict[str, Any]) -> int:
        """The most tokens a micro-batch whose step fits, a multiple of 100; 0 where none does."""
        sizes = range(100, MOST_TOKENS, 100)
        return 100 * bisect_right(sizes, self.cluster.bytes_each, key=lambda tokens: self.total(zero, tokens))

    def _buckets(self, zero: dict[str, Any]) -> float:
        shapes, stage, sizes = self.shapes, zero["stage"], DEFAULTS | zero
        if stage == 0:  # the gradients once more, flat, to be added up over the ranks
            return FLOAT32 * shapes.adapter_parameters if self.cluster.ranks > 1 else 0
        twice = 2 if zero.get("overlap_comm", stage == 3) else 1
        reducing = FLOAT32 * twice * sizes["reduce_bucket_size"]
        if stage < 3:
            return reducing
        live = max(min(sizes["stage3_max_live_parameters"], shapes.llm_parameters), shapes.widest_module)
        gathered = shapes.dtype.itemsize * (live + sizes["stage3_prefetch_bucket_size"])
        return reducing + gathered + FLOAT32 * shapes.adapter_parameters

    def speed(self, zero: dict[str, Any], cached: bool, tokens: int, busy: float = 1.0) -> tuple[float, str]:
        """Audio-hours an hour of all GPUs with micro-batches of `tokens`, and what the time goes to.

        A micro-batch takes at least as long as its kernels take to be launched, however small it is. In stage 3 every
        rank gathers the LLM's weights forward and again backward, for each micro-batch: 2 x bytes x (R - 1) / R over
        the link. An offload also brings each rank's part from the host, twice. All these are taken to overlap wholly,
        which is the best case: the slowest alone counts.
        """
        cluster, shapes, work = self.cluster, self.shapes, self.work
        utterances, at = work.utterances * tokens / work.cost, self.cost.at(1)
        flops, kernels = at.flops, LLM_KERNELS * layers_of(shapes.llm)
        if not cached:
            flops += at.encoder_flops
            kernels += ENCODER_KERNELS * layers_of(shapes.encoder) + UTTERANCE_KERNELS * utterances
        per_second = 1e12 * cluster.kind.teraflops * self.utilisation
        times = {"arithmetic": utterances * flops / per_second, "launching kernels": LAUNCH * kernels}
        llm = shapes.llm_parameters * shapes.dtype.itemsize
        if zero["stage"] == 3 and cluster.ranks > 1:
            times["gathering"] = 2 * llm * (cluster.ranks - 1) / cluster.ranks / cluster.link
        if _offloads(zero):
            times["the host's link"] = 2 * llm / cluster.ranks / (1e9 * cluster.kind.host)
        limit = max(times, key=lambda name: times[name])
        return cluster.ranks * busy * utterances * work.seconds / work.utterances / times[limit], limit

    def hours(self, config: Config, on_the_fly: float, cached: float) -> Hours:
        """At so many audio-hours an hour; `config` is decided (train/recipe/auto.py)."""
        steps, optim, total = self.work.steps(config), config.optim, self.work.seconds / 3600
        limits = (optim.epochs, optim.max_steps / steps if optim.max_steps else None)
        epochs = min(limit for limit in limits if limit is not None)
        fly, from_cache = total / on_the_fly, total / cached
        first = 0.0 if self.work.cached else min(1.0, epochs)
        return Hours(epochs, steps, fly, from_cache, epochs * fly, first * fly + (epochs - first) * from_cache)

    def cache(self, audio_hours_per_hour: float) -> Cache:
        """Of an epoch's frames, unstacked, as data_prep keeps them (int8 with a float16 scale a frame)."""
        width, frames = self.shapes.adapter.encoder_dim, self.work.frames
        float16, int8 = 2 * width * frames, (width + 2) * frames
        seconds = self.work.seconds / audio_hours_per_hour * self.cluster.nodes
        return Cache(float16, int8, float16 / seconds, int8 / seconds)


def read_zero(name: str) -> dict[str, Any]:
    """The zero_optimization of a file in ds_configs/."""
    return read_deepspeed_json(FOLDER / f"{name}.json")["zero_optimization"]


def _offloads(zero: dict[str, Any]) -> bool:
    return zero.get("offload_param", {}).get("device", "none") != "none"
