"""How long this rank is busy in a step before it waits for others: what shows a straggler.

In synchronous training every rank takes the same time for a step. What differs is the time from the start of a
micro-batch to its last adapter gradient, after which ranks exchange gradients. Hooks on the adapter's parameters record
that moment, on a GPU with an event, so that nothing waits for it. They fire in ZeRO 0 to 3; but stage 3 gathers the
LLM's weights layer by layer, so a slow rank's time shows in part in the others' too.
"""

import time
from collections.abc import Iterable
from typing import Any

import torch


class StepTimer:
    """Adds up the busy time of a step's micro-batches."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], device: torch.device) -> None:
        """`parameters`: the trained ones."""
        self._now = _event if device.type == "cuda" else time.monotonic
        self._spans: list[list[Any]] = []  # [start, last gradient]; the second may be missing
        self._began = 0.0
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._mark)

    def begin(self) -> None:
        """A micro-batch starts."""
        if not self._spans:
            self._began = time.monotonic()
        self._spans.append([self._now()])

    def _mark(self, _: torch.Tensor) -> None:
        if self._spans:
            self._spans[-1][1:] = [self._now()]

    def take(self) -> tuple[float, float]:
        """Seconds since the step's first micro-batch began, and those in which this rank was busy.

        To be called after the step's own synchronisation, when all events have happened.
        """
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
