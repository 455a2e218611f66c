"""Measures steps on this device: the product's own recogniser and engine, with random weights.

One process is a world of one, in stage 0. Micro-batches of the recipe's mean utterance, of rising size, each for a few
steps; memory is the highest that was allocated, beside what simulation.py predicts for that very micro-batch."""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count, takewhile

import torch

from data_prep.figures import in_units, table
from data_prep.progress import clock
from launch.plan.data import Work
from launch.plan.estimate import Estimator
from launch.plan.gpus import GIB, this_gpu
from launch.plan.shapes import Shapes, random_batch, random_recogniser
from launch.plan.simulation import StepCost, simulate
from model.errors import UserError, counted
from model.sample_rate import SAMPLE_RATE
from train.recipe.config import Config
from train.recipe.kinds import decided
from train.report.metrics import memory_bytes

WARM_STEPS, TIMED_STEPS = 2, 3
"""AdamW makes its moments at the first step, so the second is the first that takes what all others take."""
PAST = 1.3
"""Times the predicted largest micro-batch, after which nothing larger is tried."""


def measure_here(
    config: Config, shapes: Shapes, work: Work, utilisation: float, gpu_type: str | None, as_json: bool
) -> None:
    """On this process's GPU, from a quarter of the recipe's batch.tokens up, doubling; prints a table."""
    if not shapes.shardable:
        quantised = f"--probe measures LLMs in full weights, and model.llm_dtype is {shapes.recipe.dtype_of_llm}"
        raise UserError(f"{quantised}; plan without --probe predicts it")
    device = torch.device("cuda", torch.cuda.current_device())
    name, memory = torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device).total_memory
    estimator = Estimator(shapes, work, this_gpu(name, memory, gpu_type), utilisation)
    tokens = decided(config.batch.tokens)
    largest, speed = estimator.largest("zero0"), estimator.speed("zero0", work.cached, tokens)[0]
    sizes = takewhile(lambda size: size <= PAST * largest, (max(1, tokens // 4) << doubled for doubled in count()))
    rows = list(measure(config, shapes, work, sizes, device))
    if as_json:
        print(json.dumps({"largest_tokens": largest, "audio_hours_per_hour": speed, "readings": rows}, indent=1))
        return
    print(f"{name}, {memory / GIB:.1f} GiB; predicted: at most {largest:,} tokens, {speed:,.0f} audio-h/h")
    lines = []
    for row in rows:
        sizes = [f"{row[name] / GIB:.2f}" for name in ("predicted_bytes", "measured_bytes")]
        reached = row["audio_hours_per_hour"]
        speeds = [f"{row['seconds']:.3f}", f"{reached:,.0f}", f"{utilisation * reached / speed:.1%}"]
        lines.append([f"{row['tokens']:,}", *sizes, *speeds])
    head = ("tokens", "predicted GiB", "measured GiB", "s/step", "audio-h/h", "utilisation")
    print("\n".join(table(lines, head, left=())))


def measure_on_cpu(config: Config, shapes: Shapes, work: Work, total_steps: int, as_json: bool) -> None:
    """On this process's threads with the recipe's batch.tokens; prints the hours of a run of `total_steps`. UserError
    for models that this host's memory does not hold."""
    if not shapes.shardable:
        raise UserError(f"--probe measures LLMs in full weights, and model.llm_dtype is {shapes.recipe.dtype_of_llm}")
    needed, there = shapes.llm_bytes + shapes.encoder_bytes, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise UserError(f"the models take {in_units(needed)}, this host has {in_units(there)}; --gpus 1x80GB predicts")
    tokens, device = decided(config.batch.tokens), torch.device("cpu")
    rows = list(measure(config, shapes, work, [tokens], device, reset_peak=lambda: None, peak_bytes=memory_bytes))
    if not rows:
        raise UserError(f"a step with batch.tokens={tokens} does not fit into this host's memory; give fewer")
    row = rows[0]
    steps = work.steps(config)
    hours = work.seconds / 3600 * total_steps / steps / row["audio_hours_per_hour"]
    if as_json:
        print(json.dumps({"readings": [row], "threads": torch.get_num_threads(), "steps": total_steps, "hours": hours}))
        return
    data = "cached frames" if work.cached else "audio, encoded on the fly"
    print(
        f"this CPU, {counted(torch.get_num_threads(), 'thread')}, {data}: {row['seconds']:.2f} s a micro-batch of "
        f"{row['tokens']:,} tokens, {row['audio_hours_per_hour']:.3g} audio-h/h, {in_units(int(row['measured_bytes']))}"
    )
    print(
        f"a run of {total_steps:,} steps ({total_steps / steps:.3g} epochs) takes {clock(3600 * hours)}, without "
        "evaluation (about a tenth) and saving"
    )


def measure(
    config: Config,
    shapes: Shapes,
    work: Work,
    budgets: Iterable[int],
    device: torch.device,
    timed_steps: int = TIMED_STEPS,
    reset_peak: Callable[[], None] = torch.cuda.reset_peak_memory_stats,
    peak_bytes: Callable[[], int] = torch.cuda.max_memory_allocated,
) -> Iterator[dict[str, float]]:
    """Micro-batches of so many LLM tokens each, until memory runs out; encoder and LLM are drawn on the device.
    `reset_peak` is called once before the models are made, and before the timed steps of each size."""
    import torch.distributed as dist

    from train.dist.collectives import join_world
    from train.engine.engine import Engine, start_deepspeed

    world, mean, prompt = join_world(), work.mean(shapes), work.prompt_tokens
    cost = simulate(shapes, mean, mean.samples, prompt, packed=device.type == "cuda")
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
        reset_peak()
        layout = config.batch.layout
        model = random_recogniser(shapes, device, prompt, with_encoder=not work.cached, layout=layout)
        engine = Engine(model, config.optim, {"zero_optimization": {"stage": 0}}, 1, world)
        for budget in budgets:
            number = max(1, round(budget / mean.tokens))
            batch = random_batch(shapes, mean, number, torch.device("cpu"), work.cached)
            try:
                steps(WARM_STEPS)
                reset_peak()
                seconds = steps(timed_steps) / timed_steps
            except UserError:  # the engine ran out of memory
                return
            tokens = number * mean.tokens
            yield {
                "tokens": tokens,
                "predicted_bytes": predicted_bytes(shapes, cost, tokens, not work.cached, cached=work.cached),
                "measured_bytes": peak_bytes(),
                "seconds": seconds,  # of a step
                "audio_hours_per_hour": number * mean.samples / SAMPLE_RATE / seconds,
            }
    except torch.OutOfMemoryError:
        what = "the weights alone are more than this GPU has"
        raise UserError(f"{what}; plan without --probe says what ZeRO-3 would take") from None
    finally:
        dist.destroy_process_group()


def predicted_bytes(shapes: Shapes, cost: StepCost, tokens: float, with_encoder: bool, cached: bool) -> float:
    """Of a single process in stage 0: weights, gradients and moments of adapter and LoRA, and the peak of the step."""
    frozen = shapes.llm_parameters * shapes.dtype.itemsize + (shapes.encoder_bytes if with_encoder else 0)
    return frozen + 16 * shapes.trained_parameters + cost.peak(tokens, cached)
