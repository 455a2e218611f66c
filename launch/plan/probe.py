"""What a step really takes on this device: the product's own recogniser and engine, with random weights.

One process is a world of one, in stage 0. Micro-batches of the recipe's mean utterance, of rising size, each for a few
steps; memory is the highest that was allocated, beside what memory.py predicts for that very micro-batch. On a CPU,
which the tests use, it is the process's resident memory above what it was before the models were made.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from launch.plan.gpus import GIB, alone
from launch.plan.lengths import Work, prompt_tokens
from launch.plan.memory import Micro, peak
from launch.plan.shapes import Shapes
from launch.plan.speed import Rig, pace
from launch.plan.zero import read_settings
from model.adapter import build_adapter
from model.batch import Batch, pack
from model.encoders import ENCODER_FAMILIES, Encoder
from model.errors import UserError
from model.llm import Llm, try_packing
from model.loading.pretrained import freeze
from model.sample_rate import SAMPLE_RATE
from model.slam_asr import SlamAsr
from train.recipe.config import Config
from train.recipe.kinds import decided

if TYPE_CHECKING:
    from train.engine.engine import Engine

WARM_STEPS, TIMED_STEPS = 2, 3
"""AdamW makes its moments at the first step, so the second is the first that takes what all others take."""
PAST = 1.3
"""Times the predicted largest micro-batch, after which nothing larger is tried."""


@dataclass(frozen=True)
class Words:
    """As many prompt tokens as the recipe has; no tokenizer is needed."""

    prefix_ids: list[int]
    suffix_ids: list[int]


@dataclass(frozen=True)
class Reading:
    """One size of micro-batch."""

    tokens: int
    predicted_bytes: float
    measured_bytes: int
    """The peak."""
    seconds: float
    """A step."""
    audio_hours_per_hour: float

    @property
    def line(self) -> str:
        return (
            f"{self.tokens:10,}  {self.predicted_bytes / GIB:13.2f}  {self.measured_bytes / GIB:12.2f}  "
            f"{self.predicted_bytes / self.measured_bytes:9.2f}  {self.seconds:7.3f}  {self.audio_hours_per_hour:9,.0f}"
        )


HEADER = "    tokens  predicted GiB  measured GiB      ratio   s/step  audio-h/h  utilisation"


def measure_here(
    config: Config, shapes: Shapes, work: Work, utilisation: float, gpu_type: str | None, as_json: bool
) -> None:
    """On this process's GPU, from a quarter of the recipe's batch.tokens up, doubling; prints each as it is there."""
    device = torch.device("cuda", torch.cuda.current_device())
    name, memory = torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device).total_memory
    rig = Rig(alone(name, memory, gpu_type), utilisation)
    zero0 = next(setting for setting in read_settings() if setting.stage == 0)
    largest = zero0.largest(shapes, work.micro, rig.cluster)
    tokens = decided(config.batch.tokens)
    speed = pace(zero0, shapes, work, work.cached, tokens, 1, rig).audio_hours_per_hour
    if not as_json:
        print(f"{name}, {memory / GIB:.1f} GiB; predicted: at most {largest:,} tokens, {speed:,.0f} audio-h/h")
        print(f"at a utilisation of {utilisation:g} of {rig.cluster.kind.teraflops:g} TFLOP/s\n{HEADER}")
    sizes = (max(1, tokens // 4) << doubled for doubled in count())
    found = []
    for reading in measure(config, shapes, work, takewhile(lambda size: size <= PAST * largest, sizes), device):
        found.append(reading)
        if not as_json:
            print(f"{reading.line}  {utilisation * reading.audio_hours_per_hour / speed:11.1%}", flush=True)
    if as_json:
        readings = [asdict(reading) for reading in found]
        print(json.dumps({"largest_tokens": largest, "audio_hours_per_hour": speed, "readings": readings}, indent=1))


def measure(
    config: Config,
    shapes: Shapes,
    work: Work,
    budgets: Iterable[int],
    device: torch.device,
    timed_steps: int = TIMED_STEPS,
) -> Iterator[Reading]:
    """A Reading for each budget of LLM tokens, until memory runs out; encoder and LLM are drawn on the device."""
    import torch.distributed as dist

    from train.dist.collectives import join_world
    from train.engine.engine import Engine, start_deepspeed

    world = join_world()
    start_deepspeed(world, float(config.run.collective_timeout_seconds))
    try:
        meter = _Meter(device)
        model = random_recogniser(config, shapes, work, device)
        engine = Engine(model, config.optim, {"zero_optimization": {"stage": 0}}, 1, world)
        for budget in budgets:
            batch = random_batch(model, shapes, work, budget)
            try:
                yield _read(engine, shapes, batch, meter, config.optim.lr, timed_steps)
            except UserError:  # the engine's word for memory that ran out
                return
    except torch.OutOfMemoryError:
        raise UserError(
            "the weights alone are more than this GPU has; plan without --probe says what ZeRO-3 would take"
        ) from None
    finally:
        dist.destroy_process_group()


def random_recogniser(config: Config, shapes: Shapes, work: Work, device: torch.device) -> SlamAsr:
    """The recipe's models with weights that mean nothing; without its encoder where it reads cached frames."""
    from transformers import AutoModel, AutoModelForCausalLM

    trusted = config.model.trust_remote_code
    whole = shapes.llm.whole
    torch.manual_seed(0)
    with device:
        words: Any = AutoModelForCausalLM.from_config(whole, dtype=shapes.dtype, trust_remote_code=trusted)
        adapter = build_adapter(shapes.adapter)
    encoder: Encoder | None = None
    if not work.cached:
        with device:
            heard: Any = AutoModel.from_config(shapes.encoder.config, dtype=shapes.dtype, trust_remote_code=trusted)
        heard.to(device)  # transformers makes one weight, masked_spec_embed, on the CPU all the same
        encoder = freeze(
            ENCODER_FAMILIES[shapes.encoder.config.model_type](freeze(heard), SAMPLE_RATE, True, None, "random")
        )
    llm = Llm(freeze(words), None, {}, try_packing(words))
    around = prompt_tokens(config.model)
    prompt = cast(Any, Words([0], [0] * (around - 1)))
    return SlamAsr(encoder, adapter, llm, prompt, config.batch.layout)


def random_batch(model: SlamAsr, shapes: Shapes, work: Work, tokens: int) -> Batch:
    """About so many LLM tokens in utterances of the mean length, at least one."""
    utterances = max(1, round(tokens * work.utterances / work.tokens))
    samples = int(SAMPLE_RATE * work.seconds / work.utterances)
    targets = [[0] * max(1, round(work.targets / work.utterances))] * utterances
    keys = [f"random-{i}" for i in range(utterances)]
    if model.encoder is not None:
        return pack(keys, keys, targets, waves=[0.1 * torch.randn(samples) for _ in keys])
    frames = int(shapes.encoder.frames_of(samples))
    features = [torch.randn(frames, shapes.encoder.hidden).to(shapes.dtype) for _ in keys]
    return pack(keys, keys, targets, features=features)


def micro_of(model: SlamAsr, batch: Batch) -> Micro:
    """How much there is of everything in a batch as the model computes it."""
    speech = int(model.speech_tokens(batch).sum())
    around = len(model.prompt.prefix_ids) + len(model.prompt.suffix_ids) - 1  # the end is never fed in
    tokens, samples = speech + batch.num_targets + around * len(batch), batch.audio_cu.diff()
    frames = int(batch.feature_cu[-1])
    if batch.audio is not None and model.encoder is not None:
        frames = int(model.encoder.out_len(samples).sum())
    return Micro(tokens, batch.num_targets, speech, frames, int(samples.sum()), int(samples.max()))


def predicted_bytes(shapes: Shapes, micro: Micro, on_gpu: bool, with_encoder: bool) -> float:
    """Of one process alone in stage 0: weights, the adapter's gradient and moments, and the peak of the step."""
    frozen = shapes.llm.parameters + (shapes.encoder.parameters if with_encoder else 0)
    return shapes.dtype.itemsize * frozen + 16 * shapes.adapter_parameters + peak(shapes, micro, on_gpu)


def _read(engine: Engine, shapes: Shapes, batch: Batch, meter: _Meter, lr: float, timed_steps: int) -> Reading:
    for _ in range(WARM_STEPS):
        _step(engine, batch, lr)
    meter.reset()
    start = time.perf_counter()
    for _ in range(timed_steps):
        _step(engine, batch, lr)
    seconds = (time.perf_counter() - start) / timed_steps
    micro = micro_of(engine.model, batch)
    audio = (
        int(micro.samples) / SAMPLE_RATE if micro.samples else micro.frames * shapes.encoder.downsampling / SAMPLE_RATE
    )
    predicted = predicted_bytes(shapes, micro, meter.on_gpu, engine.model.encoder is not None)
    return Reading(int(micro.tokens), predicted, meter.peak(), seconds, audio / seconds)


def _step(engine: Engine, batch: Batch, lr: float) -> None:
    """One update, as train_step in train/loop.py makes it."""
    loss = engine.forward(batch).loss
    engine.backward(loss, batch.num_targets)
    engine.step(lr)
    loss.item()  # waits for the device


class _Meter:
    """The highest memory since `reset`, above that of before."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self._before = 0 if self.on_gpu else _status("RssAnon")

    def reset(self) -> None:
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew (proc(5))

    def peak(self) -> int:
        if self.on_gpu:
            return torch.cuda.max_memory_allocated()
        return _status("VmHWM") - _status("RssFile") - _status("RssShmem") - self._before


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])
