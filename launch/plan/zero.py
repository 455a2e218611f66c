"""What each file of ds_configs/ makes of the memory: who holds the frozen weights, and what DeepSpeed adds.

Only the adapter is trained, so only it has gradients (4 bytes a weight), AdamW's moments (8) and, from stage 1 on, a
flat float32 copy (4) that is shared out among R ranks. Stage 3 shares out the LLM too; the encoder is outside the
module tree (model/slam_asr.py) and stays whole on every GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.plan.gpus import GIB, Cluster
from launch.plan.memory import FLOAT32, Micro, gathered, peak
from launch.plan.shapes import Shapes
from train.recipe.deepspeed_json import read_deepspeed_json

FOLDER = Path(__file__).parents[2] / "ds_configs"
NAMES = ("zero0", "zero1", "zero2", "zero3", "zero3_offload")
RESERVE = 2 * GIB
"""What no formula here counts: CUDA's context and kernels (about half of a GiB), workspaces of cuBLAS and cuDNN, NCCL's
buffers (up to one), and the gaps of the allocator. An allowance, not a measurement."""
DEFAULT_BUCKET = 500_000_000
"""Elements, where a JSON does not say: DeepSpeed's own default of reduce_bucket_size."""
DEFAULT_LIVE = 1_000_000_000
"""Elements: DeepSpeed's own default of stage3_max_live_parameters."""
DEFAULT_PREFETCH = 50_000_000
"""Elements: DeepSpeed's own default of stage3_prefetch_bucket_size."""
MOST_TOKENS = 1 << 22
"""Nothing is looked for beyond: 4 million tokens are 76 hours of speech in one micro-batch."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU."""

    frozen: float
    adapter: float
    """The adapter with its gradients and its optimizer's states."""
    buckets: float
    """DeepSpeed's own: buckets, and in stage 3 the weights that are gathered at a time."""
    activations: float
    reserve: float
    host: float
    """Of the host, for all GPUs of a node, at the most: each rank reads the whole LLM into it before that moves to the
    GPUs. An offload keeps a node's part there."""

    @property
    def total(self) -> float:
        return self.frozen + self.adapter + self.buckets + self.activations + self.reserve


@dataclass(frozen=True)
class Setting:
    """One file of ds_configs/."""

    name: str
    zero: dict[str, Any]

    @property
    def stage(self) -> int:
        return self.zero["stage"]

    @property
    def offloads(self) -> bool:
        return self.zero.get("offload_param", {}).get("device", "none") != "none"

    def memory(self, shapes: Shapes, micro: Micro, cluster: Cluster) -> Memory:
        """Of a micro-batch like `micro`; without samples the frames are cached and no encoder is loaded."""
        d, llm = shapes.dtype.itemsize, shapes.llm.parameters * shapes.dtype.itemsize
        encoder = d * shapes.encoder.parameters if micro.samples else 0
        held = llm if self.stage < 3 else 0 if self.offloads else llm / cluster.ranks
        return Memory(
            frozen=encoder + held,
            adapter=shapes.adapter_parameters * self._bytes_a_trained_weight(cluster.ranks),
            buckets=self._buckets(shapes, cluster.ranks),
            activations=peak(shapes, micro, zero3=self.stage == 3),
            reserve=RESERVE,
            host=llm * cluster.per_node,
        )

    def _bytes_a_trained_weight(self, ranks: int) -> float:
        """Weight, gradient, two moments; and the flat copy. What is divided is shared out."""
        whole, shared = ((16, 0), (8, 12), (4, 16), (0, 20))[self.stage]
        return whole + shared / ranks

    def _buckets(self, shapes: Shapes, ranks: int) -> float:
        if self.stage == 0:  # the gradients once more, flat, to be added up over the ranks
            return FLOAT32 * shapes.adapter_parameters if ranks > 1 else 0
        twice = 2 if self.zero.get("overlap_comm", self.stage == 3) else 1
        reducing = FLOAT32 * twice * self.zero.get("reduce_bucket_size", DEFAULT_BUCKET)
        if self.stage < 3:
            return reducing
        llm, d = shapes.llm, shapes.dtype.itemsize
        live = min(self.zero.get("stage3_max_live_parameters", DEFAULT_LIVE), llm.parameters)
        ahead = self.zero.get("stage3_prefetch_bucket_size", DEFAULT_PREFETCH)
        return reducing + d * (max(live, gathered(llm)) + ahead) + FLOAT32 * shapes.adapter_parameters

    def largest(self, shapes: Shapes, micro_of: Callable[[float], Micro], cluster: Cluster) -> int:
        """The most tokens a micro-batch whose step fits, a multiple of 100; 0 where none does."""
        low, high = 0, MOST_TOKENS // 100
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.memory(shapes, micro_of(100 * middle), cluster).total <= cluster.bytes_each
            low, high = (middle, high) if fits else (low, middle - 1)
        return 100 * low


def read_settings() -> list[Setting]:
    """Those of ds_configs/, the least that is shared out first."""
    return [Setting(name, read_deepspeed_json(FOLDER / f"{name}.json")["zero_optimization"]) for name in NAMES]
