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

from data_prep.figures import in_hours
from data_prep.progress import Progress
from data_prep.retries import count_retries, retries
from model.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
POLL_SECONDS = 0.2


class Stopped(Exception):
    """The work was called off by the parent."""


class Tally:
    """What tasks tell the parent (how many utterances are done, of how much sound) and are told (to stop)."""

    def __init__(self, context: Any) -> None:
        self._count, self._seconds, self._stop = context.Value("q", 0), context.Value("d", 0.0), context.Value("b", 0)
        self._kept = context.Value("q", 0)

    def add(self, n: int, seconds: float = 0.0, kept: bool = False) -> None:
        """`kept`: an earlier run had done them."""
        with self._count.get_lock():
            self._count.value += n
            self._seconds.value += seconds
            self._kept.value += n if kept else 0

    def counts(self) -> tuple[int, int]:
        """How many are done, and of those kept."""
        with self._count.get_lock():
            return self._count.value, self._kept.value

    @property
    def seconds(self) -> float:
        return self._seconds.value

    @property
    def stopped(self) -> bool:
        return bool(self._stop.value)

    def stop(self) -> None:
        self._stop.value = 1


class InPlace:
    """The tally of tasks that run in this very process."""

    stopped = False

    def __init__(self, progress: Progress) -> None:
        self._progress, self._seconds = progress, 0.0

    def add(self, n: int, seconds: float = 0.0, kept: bool = False) -> None:
        self._seconds += seconds
        _show(self._progress, n, self._seconds, n if kept else 0)


_tally: Tally | None = None  # of a worker process, set once when it starts


def run_all(
    function: Callable[[Task, Tally | InPlace], Result], tasks: Sequence[Task], workers: int, progress: Progress
) -> Iterator[tuple[int, Result]]:
    """(number, result) of each task as it ends. One worker is this very process. An error stops all the others."""
    try:
        if min(workers, len(tasks)) <= 1:
            tally = InPlace(progress)
            yield from ((number, function(task, tally)) for number, task in enumerate(tasks))
        else:
            yield from _run_in_processes(function, tasks, min(workers, len(tasks)), progress)
    except (BrokenProcessPool, MemoryError):
        raise UserError(
            "a worker process was killed or found no memory; what is finished stays valid: run it again, with fewer "
            "--workers if it was the memory"
        ) from None


def _run_in_processes(
    function: Callable[[Task, Tally], Result], tasks: Sequence[Task], workers: int, progress: Progress
) -> Iterator[tuple[int, Result]]:
    context = multiprocessing.get_context("spawn")
    tally = Tally(context)
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(tally,))
    try:
        waiting = {pool.submit(_run_one, function, task): number for number, task in enumerate(tasks)}
        while waiting:
            ready, _ = wait(waiting, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            done, kept = tally.counts()
            _show(progress, done - progress.done, tally.seconds, kept - progress.kept)
            for future in ready:
                result, retried = future.result()
                count_retries(retried)
                yield waiting.pop(future), result
    finally:
        tally.stop()
        pool.shutdown(wait=True, cancel_futures=True)


def _show(progress: Progress, n: int, seconds: float, kept: int) -> None:
    """`n` more are done, `kept` of them by an earlier run; `seconds` of sound are in all that is done."""
    if kept:
        progress.keep(kept)
    if seconds:
        progress.advance(n - kept, audio=in_hours(seconds))
    else:
        progress.advance(n - kept)


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


def _run_one(function: Callable[[Any, Tally], Any], task: Any) -> tuple[Any, int]:
    """What the function gives, and the retries it took, which the parent adds to its own."""
    assert _tally is not None
    before = retries()
    return function(task, _tally), retries() - before
