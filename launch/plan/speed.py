"""How fast it will go: arithmetic over the peak of the GPUs, and what ZeRO-3 must send for it."""

from __future__ import annotations

from dataclasses import dataclass

from launch.plan.gpus import Cluster
from launch.plan.lengths import Work
from launch.plan.shapes import Shapes
from launch.plan.zero import Setting

UTILISATION = 0.4
"""Share of the peak that is reached on useful tokens. An assumption, not a measurement: unfused layers are expected to
end at 0.65 to 0.75, and small micro-batches wait for the launch of kernels. `plan --probe` measures it."""
LAUNCH = 5e-6
"""Seconds to launch a kernel. An assumption, as are the counts of kernels."""
LLM_LAYER, ENCODER_LAYER, UTTERANCE = 80, 20, 25
"""Kernels of a layer of the LLM, forward and backward; of a layer of the encoder; and of an utterance's convolutions,
which are computed one utterance at a time."""


@dataclass(frozen=True)
class Rig:
    """The GPUs and how well they are used."""

    cluster: Cluster
    utilisation: float

    @property
    def flops_per_second(self) -> float:
        """Of one GPU."""
        return 1e12 * self.cluster.kind.teraflops * self.utilisation


@dataclass(frozen=True)
class Pace:
    """Of all GPUs together."""

    audio_hours_per_hour: float
    limit: str
    """What the time of a micro-batch is: arithmetic, launching kernels, gathering, or the host's link."""


def pace(setting: Setting, shapes: Shapes, work: Work, cached: bool, tokens: int, busy: float, rig: Rig) -> Pace:
    """Training with micro-batches of `tokens` on ranks that are `busy` for this share of the time.

    A micro-batch takes at least as long as its kernels take to be launched, however small it is. In stage 3 every rank
    gathers the LLM's weights forward and again backward, for each micro-batch: 2 x bytes x (R - 1) / R over the link.
    An offload also brings each rank's part from the host, twice. All these are taken to overlap wholly, which is the
    best case: the slowest alone counts.
    """
    cluster, flops = rig.cluster, work.answering + (0 if cached else work.encoding)
    share = tokens / work.cost  # of an epoch, in one micro-batch
    kernels = LLM_LAYER * shapes.llm.layers
    if not cached:
        kernels += ENCODER_LAYER * shapes.encoder.config.num_hidden_layers + UTTERANCE * share * work.utterances
    times = {"arithmetic": share * flops / rig.flops_per_second, "launching kernels": LAUNCH * kernels}
    llm = shapes.llm.parameters * shapes.dtype.itemsize
    if setting.stage == 3 and cluster.ranks > 1:
        times["gathering"] = 2 * llm * (cluster.ranks - 1) / cluster.ranks / cluster.link
    if setting.offloads:
        times["the host's link"] = 2 * llm / cluster.ranks / (1e9 * cluster.kind.host)
    limit = max(times, key=lambda name: times[name])
    seconds = share * work.seconds  # of audio, in one micro-batch
    return Pace(cluster.ranks * busy * seconds / times[limit], limit)


def busy_share(micro_batches: int, ranks: int) -> float:
    """Micro-batches of a step over the places for them: 1 where no rank is ever idle."""
    return micro_batches / (ranks * -(-micro_batches // ranks))


def idle_ranks(micro_batches: int, ranks: int) -> range:
    """The ranks that have one micro-batch a step less than the others; empty where all have the same."""
    left = micro_batches % ranks
    return range(left, ranks) if left else range(0)
