"""What a step really takes on this device: the product's own recogniser and engine, with random weights.

One process is a world of one, in stage 0. Micro-batches of the recipe's mean utterance, of rising size, each for a few
steps; memory is the highest that was allocated, beside what simulation.py predicts for that very micro-batch. On a CPU,
which the tests use, it is the process's resident memory above what it was before the models were made.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import count, takewhile
from pathlib import Path

import torch

from data_prep.figures import table
from launch.plan.data import Work
from launch.plan.estimate import Estimator, read_zero
from launch.plan.gpus import GIB, this_gpu
from launch.plan.shapes import Shapes, random_batch, random_recogniser
from launch.plan.simulation import StepCost, simulate
from model.errors import UserError
from model.sample_rate import SAMPLE_RATE
from train.recipe.config import Config
from train.recipe.kinds import decided

WARM_STEPS, TIMED_STEPS = 2, 3
"""AdamW makes its moments at the first step, so the second is the first that takes what all others take."""
PAST = 1.3
"""Times the predicted largest micro-batch, after which nothing larger is tried."""


@dataclass(frozen=True)
class ProbeRow:
    """One size of micro-batch."""

    tokens: int
    predicted_bytes: float
    measured_bytes: int
    """The peak."""
    seconds: float
    """A step."""
    audio_hours_per_hour: float


def measure_here(
    config: Config, shapes: Shapes, work: Work, utilisation: float, gpu_type: str | None, as_json: bool
) -> None:
    """On this process's GPU, from a quarter of the recipe's batch.tokens up, doubling; prints a table."""
    device = torch.device("cuda", torch.cuda.current_device())
    name, memory = torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device).total_memory
    estimator = Estimator.of(shapes, work, this_gpu(name, memory, gpu_type), utilisation)
    zero0, tokens = read_zero("zero0"), decided(config.batch.tokens)
    largest, speed = estimator.largest(zero0), estimator.speed(zero0, work.cached, tokens)[0]
    sizes = takewhile(lambda size: size <= PAST * largest, (max(1, tokens // 4) << doubled for doubled in count()))
    rows = list(measure(config, shapes, work, sizes, device))
    if as_json:
        readings = [asdict(row) for row in rows]
        print(json.dumps({"largest_tokens": largest, "audio_hours_per_hour": speed, "readings": readings}, indent=1))
        return
    print(f"{name}, {memory / GIB:.1f} GiB; predicted: at most {largest:,} tokens, {speed:,.0f} audio-h/h")
    lines = []
    for row in rows:
        sizes = [f"{size / GIB:.2f}" for size in (row.predicted_bytes, row.measured_bytes)]
        reached = utilisation * row.audio_hours_per_hour / speed
        lines.append(
            [f"{row.tokens:,}", *sizes, f"{row.seconds:.3f}", f"{row.audio_hours_per_hour:,.0f}", f"{reached:.1%}"]
        )
    head = ("tokens", "predicted GiB", "measured GiB", "s/step", "audio-h/h", "utilisation")
    print("\n".join(table(lines, head, left=())))


def measure(
    config: Config,
    shapes: Shapes,
    work: Work,
    budgets: Iterable[int],
    device: torch.device,
    timed_steps: int = TIMED_STEPS,
) -> Iterator[ProbeRow]:
    """Micro-batches of so many LLM tokens each, until memory runs out; encoder and LLM are drawn on the device."""
    import torch.distributed as dist

    from train.dist.collectives import join_world
    from train.engine.engine import Engine, start_deepspeed

    world, mean = join_world(), work.mean(shapes)
    cost = simulate(shapes, mean, mean.samples, work.prompt_tokens, packed=device.type == "cuda")
    start_deepspeed(world, float(config.run.collective_timeout_seconds))

    def steps(times: int) -> float:
        """Seconds for so many updates, as train_step in train/loop.py makes them."""
        start = time.perf_counter()
        for _ in range(times):
            loss = engine.forward(batch).loss
            engine.backward(loss, batch.num_targets)
            engine.step(config.optim.lr)
            loss.item()  # waits for the device
        return time.perf_counter() - start

    try:
        meter, layout = _MemoryMeter(device), config.batch.layout
        model = random_recogniser(shapes, device, work.prompt_tokens, with_encoder=not work.cached, layout=layout)
        engine = Engine(model, config.optim, {"zero_optimization": {"stage": 0}}, 1, world)
        for budget in budgets:
            number = max(1, round(budget / mean.tokens))
            batch = random_batch(shapes, mean, number, torch.device("cpu"), work.cached)
            try:
                steps(WARM_STEPS)
                meter.reset()
                seconds = steps(timed_steps) / timed_steps
            except UserError:  # the engine's word for memory that ran out
                return
            tokens = number * mean.tokens
            predicted = predicted_bytes(shapes, cost, tokens, with_encoder=not work.cached, cached=work.cached)
            speed = number * mean.samples / SAMPLE_RATE / seconds
            yield ProbeRow(tokens, predicted, meter.peak(), seconds, speed)
    except torch.OutOfMemoryError:
        raise UserError(
            "the weights alone are more than this GPU has; plan without --probe says what ZeRO-3 would take"
        ) from None
    finally:
        dist.destroy_process_group()


def predicted_bytes(shapes: Shapes, cost: StepCost, tokens: float, with_encoder: bool, cached: bool) -> float:
    """Of one process alone in stage 0: weights, the adapter's gradient and moments, and the peak of the step."""
    frozen = shapes.llm_parameters + (shapes.encoder_parameters if with_encoder else 0)
    return shapes.dtype.itemsize * frozen + 16 * shapes.adapter_parameters + cost.peak(tokens, cached)


class _MemoryMeter:
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
