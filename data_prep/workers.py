"""Tasks spread over processes, with a shared count, that end with their parent whatever kills it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar

from data_prep.progress import Progress
from model.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
POLL_SECONDS = 0.2


class Stopped(Exception):
    """The work was called off by the parent."""


class Tally:
    """What tasks tell the parent (how many utterances are done) and are told (to stop)."""

    def __init__(self, count: Any, stop: Any) -> None:
        self._count, self._stop = count, stop

    def add(self, n: int) -> None:
        with self._count.get_lock():
            self._count.value += n

    @property
    def done(self) -> int:
        return self._count.value

    @property
    def stopped(self) -> bool:
        return bool(self._stop.value)

    def stop(self) -> None:
        self._stop.value = 1


class InPlace:
    """The tally of tasks that run in this very process."""

    stopped = False

    def __init__(self, progress: Progress) -> None:
        self.add = progress.advance


_tally: Tally | None = None  # of a worker process, set once when it starts


def run_all(
    function: Callable[[Task, Tally | InPlace], Result], tasks: Sequence[Task], workers: int, progress: Progress
) -> Iterator[tuple[int, Result]]:
    """(number, result) of each task as it ends. One worker is this very process. An error stops all the others."""
    if min(workers, len(tasks)) == 1:
        yield from ((number, function(task, InPlace(progress))) for number, task in enumerate(tasks))
        return
    context = multiprocessing.get_context("spawn")
    tally = Tally(context.Value("q", 0), context.Value("b", 0))
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=_start_worker, initargs=(tally,))
    try:
        waiting = {pool.submit(_run_one, function, task): number for number, task in enumerate(tasks)}
        while waiting:
            ready, _ = wait(waiting, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            progress.advance(tally.done - progress.done)
            for future in ready:
                yield waiting.pop(future), future.result()
    except BrokenProcessPool:
        raise UserError("a worker process was killed (out of memory?); run it again with fewer --workers") from None
    finally:
        tally.stop()
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(tally: Tally) -> None:
    global _tally
    _tally = tally
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which stops the tally
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _run_one(function: Callable[[Any, Tally], Any], task: Any) -> Any:
    assert _tally is not None
    return function(task, _tally)
