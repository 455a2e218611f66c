"""How fast the ranks are: how long each is busy in a step, and whether cached frames save time at all."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from data_prep.features.build import read_speed
from train.report.metrics import StepSums

WINDOW_STEPS = 50  # steps judged at a time, so that one slow start does not count


class StepTimer:
    """How long this rank is busy in a step before it waits for others: what shows a straggler.

    In synchronous training every rank takes the same time for a step. What differs is the time from the start of a
    micro-batch to its last adapter gradient, after which ranks exchange gradients. Hooks on the adapter's parameters
    record that moment, on a GPU with an event, so that nothing waits for it. They fire in ZeRO 0 to 3; but stage 3
    gathers the LLM's weights layer by layer, so a slow rank's time shows in part in the others' too."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], device: torch.device) -> None:
        self._now = _event if device.type == "cuda" else time.monotonic
        self._began, self._spans = 0.0, list[list[Any]]()  # [start, last gradient]; the second may be missing
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._mark)

    def begin(self) -> None:
        """To be called when a micro-batch starts."""
        if not self._spans:
            self._began = time.monotonic()
        self._spans.append([self._now()])

    def _mark(self, _: torch.Tensor) -> None:
        if self._spans:
            self._spans[-1][1:] = [self._now()]

    def take(self) -> tuple[float, float]:
        """Seconds since the step's first micro-batch began, and those in which this rank was busy; to be called after
        the step's own synchronisation."""
        seconds, busy = time.monotonic() - self._began, sum(_seconds(*span) for span in self._spans if len(span) == 2)
        self._spans = []
        return seconds, busy


def _event() -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds(start: Any, end: Any) -> float:
    if isinstance(start, float):
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1000


class CacheSpeed:
    """Warns once if a rank waits longer for cached frames than the encoder would take: the cache then costs time.

    `speed.json` beside the features' index has the seconds of audio that a rank encoded in a second when they were
    made. Training on audio, a seventh of the size of bfloat16 frames, would then be faster."""

    def __init__(self, folders: Sequence[str], step: int) -> None:
        speeds = [speed for folder in folders if (speed := read_speed(Path(folder)))]
        self._slowest = min(speeds, key=lambda speed: speed.audio_seconds_per_second) if speeds else None
        self._since, self._waited, self._audio = step, 0.0, 0.0

    def step(self, step: int, sums: StepSums) -> list[str]:
        """The warning, if it is due after optimizer step `step` (from 1)."""
        if self._slowest is None:
            return []
        self._waited += sum(sums.waited)
        self._audio += sums.seconds
        steps = len(sums.waited) * (step - self._since)  # each rank counts its own
        if step - self._since < WINDOW_STEPS:
            return []
        waited, encoding = self._waited, self._audio / self._slowest.audio_seconds_per_second
        device, self._since, self._waited, self._audio = self._slowest.device, step, 0.0, 0.0
        if waited <= encoding:
            return []
        self._slowest, encoded = None, f"{device} encoded as much audio in {encoding / steps:.2f} s"
        slow = f"cached frames come too slowly: a rank waits {waited / steps:.2f} s a step for them, {encoded}"
        return [f"{slow}; train on the audio shards, cache as int8, or use a faster disk"]
