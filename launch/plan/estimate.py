"""The whole plan of a recipe, as plain values: what `--json` prints, and report.py puts into words."""

from __future__ import annotations

from dataclasses import dataclass

from launch.plan.gpus import GIB, NETWORK, Cluster
from launch.plan.lengths import Work
from launch.plan.shapes import COMPARED, Shapes
from launch.plan.speed import LAUNCH, Rig, busy_share, idle_ranks, pace
from launch.plan.zero import Memory, Setting
from train.recipe.config import Config
from train.recipe.kinds import decided


@dataclass(frozen=True)
class Row:
    """A file of ds_configs/ under the recipe's batch."""

    name: str
    memory: Memory
    """Bytes, at the recipe's batch.tokens."""
    total_bytes: float
    fits: bool
    """Whether the recipe's batch.tokens do."""
    largest_tokens: int
    """The largest batch.tokens that fits; 0 where none does."""
    on_the_fly: float
    """Audio-hours an hour on all GPUs, the encoder running."""
    cached: float
    """The same from cached frames."""
    limit: str
    """What the time on the fly goes to."""


@dataclass(frozen=True)
class Cache:
    """Frames kept by `prep features` or data.write_features."""

    float16_bytes: float
    int8_bytes: float
    break_even_float16: float
    """Bytes a second and node: read more slowly, an epoch takes longer than on the fly. Reading overlaps computing."""
    break_even_int8: float
    enough_float16: float
    """Bytes a second and node: read faster, an epoch is no shorter, as the GPUs are never kept waiting."""
    enough_int8: float
    gain: float
    """Time of an epoch on the fly over that of a cached one."""
    run_gain: float
    """The same of the whole run, its first epoch on the fly."""
    possible: bool
    """False where the recipe changes the audio of every epoch."""


@dataclass(frozen=True)
class Step:
    """How the ranks share a step."""

    tokens: int
    micro_batches: int
    ranks: int
    idle: list[int]
    """Ranks with one micro-batch a step less than the others."""
    busy: float


@dataclass(frozen=True)
class Time:
    """Hours, without evaluation and saving."""

    epochs: float
    steps_per_epoch: int
    epoch_on_the_fly: float
    epoch_cached: float
    run_on_the_fly: float
    run_cached: float
    """The first epoch on the fly, the others cached; with a recipe of cached frames, all of them."""


@dataclass(frozen=True)
class Estimate:
    """Everything but the advice."""

    rows: list[Row]
    step: Step
    cache: Cache
    time: Time
    least_tokens: int
    """Of batch.tokens, that the longest utterance may be taken."""
    assumptions: list[str]


def estimate(config: Config, shapes: Shapes, work: Work, settings: list[Setting], rig: Rig) -> Estimate:
    """For the recipe as it stands."""
    ranks, tokens, slots = rig.cluster.ranks, decided(config.batch.tokens), decided(config.batch.micro_batches)
    step = Step(tokens, slots, ranks, list(idle_ranks(slots, ranks)), busy_share(slots, ranks))
    rows = [row_of(setting, shapes, work, rig, tokens, step.busy) for setting in settings]
    best = next((row for row in rows if row.largest_tokens >= work.longest_cost), rows[0])
    time = time_of(config, work, best.on_the_fly, best.cached)
    return Estimate(
        rows=rows,
        step=step,
        cache=cache_of(config, shapes, work, rig.cluster, time),
        time=time,
        least_tokens=work.longest_cost,
        assumptions=_assumptions(config, shapes, rig),
    )


def row_of(setting: Setting, shapes: Shapes, work: Work, rig: Rig, tokens: int, busy: float) -> Row:
    """One setting with micro-batches of `tokens`."""
    memory = setting.memory(shapes, work.micro(tokens), rig.cluster)
    fly = pace(setting, shapes, work, False, tokens, busy, rig)
    cached = pace(setting, shapes, work, True, tokens, busy, rig)
    return Row(
        setting.name,
        memory,
        memory.total,
        memory.total <= rig.cluster.bytes_each,
        setting.largest(shapes, work.micro, rig.cluster),
        fly.audio_hours_per_hour,
        cached.audio_hours_per_hour,
        fly.limit,
    )


def time_of(config: Config, work: Work, on_the_fly: float, from_cache: float) -> Time:
    """At so many audio-hours an hour; `config` is decided (train/recipe/auto.py)."""
    steps = work.steps(config)
    hours, optim = work.seconds / 3600, config.optim
    limits = [optim.epochs, optim.max_steps / steps if optim.max_steps else None]
    epochs = min(limit for limit in limits if limit is not None)
    fly, cached = hours / on_the_fly, hours / from_cache
    first = 0.0 if work.cached else min(1.0, epochs)
    return Time(epochs, steps, fly, cached, epochs * fly, first * fly + (epochs - first) * cached)


def cache_of(config: Config, shapes: Shapes, work: Work, cluster: Cluster, time: Time) -> Cache:
    """Of the frames of an epoch, unstacked, as data_prep keeps them: int8 has a float16 scale a frame."""
    float16, int8 = 2 * shapes.encoder.hidden * work.frames, (shapes.encoder.hidden + 2) * work.frames
    fly, cached = (3600 * cluster.nodes * hours for hours in (time.epoch_on_the_fly, time.epoch_cached))
    return Cache(
        float16_bytes=float16,
        int8_bytes=int8,
        break_even_float16=float16 / fly,
        break_even_int8=int8 / fly,
        enough_float16=float16 / cached,
        enough_int8=int8 / cached,
        gain=time.epoch_on_the_fly / time.epoch_cached,
        run_gain=time.run_on_the_fly / time.run_cached,
        possible=not config.augment.needs_audio,
    )


def _assumptions(config: Config, shapes: Shapes, rig: Rig) -> list[str]:
    kind, cluster = rig.cluster.kind, rig.cluster
    memory = f"{cluster.gigabytes:g}"
    said = [f"the GPUs of {memory} GB are taken for {kind.name} (--gpu-type says another)"] if cluster.assumed else []
    said += [
        f"useful tokens reach {rig.utilisation:g} of the {kind.teraflops:g} TFLOP/s of an {kind.name}: an assumption, "
        "no measurement (--utilisation; --probe measures)",
        f"PyTorch finds {cluster.bytes_each / GIB:.1f} GiB of {memory} GB; "
        f"reserve is for CUDA, NCCL and gaps; a kernel takes {1e6 * LAUNCH:g} us to launch",
        "time leaves out evaluation, saving and waiting for data"
        + ("; model.dtype auto is bfloat16" if config.model.dtype == "auto" else ""),
    ]
    if cluster.ranks > 1:
        what = "inside the node" if cluster.nodes == 1 else f"between nodes (at most {NETWORK:g} GB/s a GPU)"
        said.append(f"ZeRO-3 gathers at {cluster.link / 1e9:g} GB/s {what}, behind the arithmetic: the best case")
    if config.batch.layout == "padded":
        said.append("batch.layout padded takes more memory and time than the packed layout that is planned here")
    if shapes.llm.family not in COMPARED:
        said.append(
            f"memory and time of an LLM of family {shapes.llm.family} are those of a Llama of its sizes; compared with "
            f"what is kept were {', '.join(COMPARED)}"
        )
    return said
