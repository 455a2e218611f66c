"""The loop both stand-ins are trained by: resumable, one file of state, a plain line of progress.

All randomness of a step comes from (seed, step), so that a training stopped at any moment and started again takes
the same batches it would have taken. The state (weights and both Adam moments) is one safetensors file whose
metadata holds the step; it is written under a temporary name and renamed, so a half-written one is never read.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Schedule:
    """Learning rate: linear warm-up to `peak`, then a cosine to `last` at `steps`."""

    steps: int
    peak: float
    last: float
    warmup: int = 100

    def rate(self, step: int) -> float:
        """The learning rate of update `step`, counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.last + (self.peak - self.last) * 0.5 * (1 + math.cos(math.pi * done))


def train(
    model: torch.nn.Module,
    step_loss: Callable[[int], torch.Tensor],
    schedule: Schedule,
    state: Path,
    export: Callable[[], None],
    save_every_seconds: float = 180.0,
    betas: tuple[float, float] = (0.9, 0.98),
) -> None:
    """Run `step_loss(step)` and AdamW from where `state` stands to `schedule.steps`; save and export on the way.

    `step_loss` returns the mean loss of the update; `export` writes the weights as they are at that moment. A SIGTERM
    ends it early, saved.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=schedule.peak, betas=betas, weight_decay=0.01)
    first = restore(state, parameters, optimizer)
    started = saved = time.monotonic()
    running, stop = None, []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    for step in range(first, schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        model.train()
        np.random.seed(step)  # transformers draws HuBERT's masks from numpy's own generator
        loss = step_loss(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        running = loss.item() if running is None else 0.95 * running + 0.05 * loss.item()
        done = step + 1
        if done % 20 == 0:
            pace = (time.monotonic() - started) / (done - first)
            left = pace * (schedule.steps - done) / 60
            rate = schedule.rate(step)
            print(f"step {done} loss {running:.3f} rate {rate:.2e} {pace:.3f} s/step {left:.1f} min left", flush=True)
        if stop or done == schedule.steps or time.monotonic() - saved > save_every_seconds:
            save(state, parameters, optimizer, done)
            export()
            saved = time.monotonic()
        if stop:
            return


def save(state: Path, parameters: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write weights, moments and step to `state`, whole or not at all."""
    tensors = {f"weight/{name}": p.detach().contiguous() for name, p in parameters.items()}
    for name, p in parameters.items():
        tensors |= {f"{moment}/{name}": optimizer.state[p][moment].contiguous() for moment in MOMENTS}
    state.parent.mkdir(parents=True, exist_ok=True)
    temporary = state.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"step": str(step)})
    os.replace(temporary, state)


def restore(state: Path, parameters: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> int:
    """Load what `save` wrote and return its step; 0 when there is nothing yet."""
    if not state.exists():
        return 0
    with safe_open(state, "pt") as file, torch.no_grad():
        step = int(file.metadata()["step"])
        for name, p in parameters.items():
            p.copy_(file.get_tensor(f"weight/{name}"))
            moments = {moment: file.get_tensor(f"{moment}/{name}") for moment in MOMENTS}
            optimizer.state[p] = {"step": torch.tensor(float(step)), **moments}
    print(f"resumed at step {step} from {state}", flush=True)
    return step
