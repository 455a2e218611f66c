"""Tasks spread over processes, with shared counts; the processes end with their parent, however it ends."""

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
CONTEXT = multiprocessing.get_context("spawn")


class Stopped(Exception):
    """The parent stopped the work."""


class TaskCounts:
    """Utterances done and seconds of audio in them, summed over processes; and whether the parent stopped the work.
    `progress`: of tasks that run in the parent itself, shows each change."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._done, self._kept, self._seconds, self._stop = (CONTEXT.Value(kind, 0) for kind in "qqdb")
        self._progress, self._shown = progress, (0, 0)

    def add(self, n: int, seconds: float = 0.0, kept: bool = False) -> None:
        """`kept`: an earlier run had done them."""
        with self._done.get_lock():
            self._done.value += n
            self._seconds.value += seconds
            self._kept.value += n if kept else 0
        if self._progress is not None:
            self.show(self._progress)

    def show(self, progress: Progress) -> None:
        with self._done.get_lock():
            kept, seconds = self._kept.value, self._seconds.value
            fresh = self._done.value - kept
        if kept > self._shown[1]:
            progress.keep(kept - self._shown[1])
        progress.advance(fresh - self._shown[0], **({"audio": in_hours(seconds)} if seconds else {}))
        self._shown = fresh, kept

    @property
    def stopped(self) -> bool:
        return bool(self._stop.value)

    def stop(self) -> None:
        self._stop.value = 1


_counts: TaskCounts | None = None  # of a worker process, set once when it starts


def run_all(
    function: Callable[[Task, TaskCounts], Result], tasks: Sequence[Task], workers: int, progress: Progress
) -> Iterator[tuple[int, Result]]:
    """(number, result) of each task as it ends. One worker is this very process. An error stops all the others."""
    workers = min(workers, len(tasks))
    try:
        if workers <= 1:
            counts = TaskCounts(progress)
            yield from ((number, function(task, counts)) for number, task in enumerate(tasks))
            return
        counts = TaskCounts()
        pool = ProcessPoolExecutor(workers, CONTEXT, initializer=_start_worker, initargs=(counts,))
        try:
            waiting = {pool.submit(_run_one, function, task): number for number, task in enumerate(tasks)}
            while waiting:
                ready, _ = wait(waiting, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                counts.show(progress)
                for future in ready:
                    result, retried = future.result()
                    count_retries(retried)
                    yield waiting.pop(future), result
        finally:
            counts.stop()
            pool.shutdown(wait=True, cancel_futures=True)
    except (BrokenProcessPool, MemoryError):
        problem = "a worker process was killed or found no memory; what is finished stays valid"
        raise UserError(f"{problem}: run it again, with fewer --workers if it was the memory") from None


def _start_worker(counts: TaskCounts) -> None:
    global _counts
    _counts = counts
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which stops the work
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _run_one(function: Callable[[Any, TaskCounts], Any], task: Any) -> tuple[Any, int]:
    """The function's result, and the retries it took, which the parent adds to its own."""
    assert _counts is not None
    before = retries()
    return function(task, _counts), retries() - before
