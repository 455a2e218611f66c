"""How long this rank was busy in a step, before it waited for others: what shows a straggler.

In a synchronous training every rank takes the same time for a step, whoever holds it up. What differs is the time from
the beginning of a micro-batch to the moment its last adapter gradient is there: after that comes the exchange between
ranks. Hooks on the adapter's parameters note that moment, with an event on a GPU, so that nothing waits for it there.
They fire in ZeRO 0 to 3; but stage 3 gathers the LLM's weights layer by layer, so that there a slow rank's time shows
in part in the others' too.
"""

import time
from collections.abc import Iterable
from typing import Any

import torch


class Pace:
    """Adds up the busy time of a step's micro-batches."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], device: torch.device) -> None:
        """`parameters` are the trained ones. Their gradients are looked at, never touched."""
        self._moment = _event if device.type == "cuda" else time.monotonic
        self._spans: list[list[Any]] = []  # [beginning, last gradient]; the second may be missing
        self._since = 0.0
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._mark)

    def begin(self) -> None:
        """A micro-batch begins here, with all that this rank does for it."""
        if not self._spans:
            self._since = time.monotonic()
        self._spans.append([self._moment()])

    def _mark(self, _: torch.Tensor) -> None:
        if self._spans:
            self._spans[-1][1:] = [self._moment()]

    def take(self) -> tuple[float, float]:
        """Seconds that the step took since its first micro-batch, and those in which this rank was busy.

        After the step's own synchronisation, so that all events are past.
        """
        seconds = time.monotonic() - self._since
        busy = sum(_between(*span) for span in self._spans if len(span) == 2)
        self._spans = []
        return seconds, busy


def _event() -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(begin: Any, end: Any) -> float:
    """Seconds between two moments."""
    if isinstance(begin, float):
        return end - begin
    end.synchronize()
    return begin.elapsed_time(end) / 1000
