"""Decodes the recordings of all requests together, on one thread that owns the model.

1. A job is a recording that was accepted. A pool of threads reads its windows (decode/recordings) ahead, at most
   AHEAD_WINDOWS of them, and at most WAITING_WINDOWS of all jobs unless there are more jobs, so that memory does not
   depend on the recordings' lengths. After each window or silence the thread is for the next job.
2. Whenever it is free, the decoding thread makes a batch of windows that are waiting: the first window of the job
   whose turn it is, and those of about its length, as many as `batch_tokens` allow: a batch takes as long as its
   longest window. Turns go round: first come, first served, and a job that had its turn is the last in the queue. So a
   short recording waits for one batch of a long one, not for its end, a long one gets on whatever arrives, and nothing
   waits for a batch to fill.
3. What a window's text is does not depend on the batch: the functions are those of `slam-asr transcribe`."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch

from data_prep.audio.decode import AudioError, Openable
from decode.options import Answer, DecodeOptions
from decode.recordings.files import Recording, answers_to, longest_window, read_windows, speech_embeddings, stretches_of
from decode.recordings.segments import Stretch
from decode.recordings.transcript import Segment, Transcript
from decode.serving.metrics import Metrics
from model.errors import UserError
from model.sample_rate import SAMPLE_RATE
from model.slam_asr import SlamAsr

AHEAD_WINDOWS = 16  # of a job: read and not yet decoded
WAITING_WINDOWS = 256  # of all jobs; 2 MB each at 30 s
READERS = 4  # threads that read recordings
ALIKE = 2  # windows of a batch are at most so many times as long, or short, as its first


@dataclass(eq=False)
class Job:
    """A recording on its way to its transcript; changed under the decoder's lock, but for `recording` while it is
    read."""

    recording: Recording
    windows: Iterator[Stretch]
    on_segment: Callable[[Segment], None]  # called in order, on the decoding thread
    on_end: Callable[[Transcript | Exception], None]  # once, on any thread: the transcript, or why there is none
    accepted: float = field(default_factory=time.monotonic)
    started: float | None = None  # when its first window went into a batch
    waiting: deque[tuple[int, Stretch]] = field(default_factory=deque)
    decoding: int = 0
    turn: int = 0  # its place in the queue: the lowest is the next
    read: int = 0  # windows that were read
    reading: bool = False
    answers: dict[int, tuple[Stretch, Answer]] = field(default_factory=dict)  # not yet added, as earlier ones lack
    added: int = 0
    ended: bool = False


class Decoder:
    """The thread, its jobs and the threads that read for it."""

    def __init__(
        self,
        model: SlamAsr,
        options: DecodeOptions,
        metrics: Metrics,
        longest: float | None = None,
        vad: str = "energy",
        max_seconds: float = 7200.0,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self.model, self.options, self.metrics = model, options, metrics
        self.longest = longest_window(model.utterance_seconds) if longest is None else longest
        self.vad, self.max_seconds, self.on_death = vad, max_seconds, on_death
        self.error: BaseException | None = None  # why the thread ended, if not by `close`
        self._changed = threading.Condition()
        self._jobs: list[Job] = []
        self._to_read: list[Job] = []  # one for each task of the readers
        self._turns = count()
        self._closed = False
        self._readers = ThreadPoolExecutor(READERS, "reader")
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(
        self,
        source: bytes | Openable,
        on_segment: Callable[[Segment], None],
        on_end: Callable[[Transcript | Exception], None],
    ) -> Job:
        """Accepts a recording. `on_end` gets the transcript, or an AudioError, an OSError, a DecodingError."""
        recording = Recording("")
        job = Job(recording, iter(()), on_segment, on_end)
        stretches = stretches_of(self.model, source, SAMPLE_RATE, self.longest, self.vad)
        job.windows = self._windows(recording, self._bounded(job, stretches))
        with self._changed:
            job.turn = next(self._turns)
            self._jobs.append(job)
            self._read_ahead(job)
        return job

    def cancel(self, job: Job) -> None:
        """Forgets a job that nobody waits for; windows that are being decoded are decoded in vain."""
        with self._changed:
            job.ended = True
            self._remove(job)

    def close(self) -> None:
        """Ends the threads. Jobs that are left are not decoded; end them first."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _windows(self, recording: Recording, stretches: Iterator[Stretch]) -> Iterator[Stretch]:
        """The windows to decode, and the silences; AudioError and OSError are raised."""
        yield from read_windows(recording, stretches)
        if recording.failure is not None:
            raise recording.failure

    def _bounded(self, job: Job, stretches: Iterator[Stretch]) -> Iterator[Stretch]:
        """Windows and silences, until nobody waits for them; AudioError once there are more than `max_seconds`."""
        for stretch in stretches:
            if job.ended:
                return
            if stretch.end > self.max_seconds * SAMPLE_RATE:
                raise AudioError("too-long", f"the recording is longer than {self.max_seconds:g} s, the most allowed")
            yield stretch

    def _read_ahead(self, job: Job) -> None:  # with the lock
        ahead = max(1, min(AHEAD_WINDOWS, WAITING_WINDOWS // max(1, len(self._jobs))))
        if job.ended or job.reading or job.recording.is_read or len(job.waiting) >= ahead:
            return
        job.reading = True
        self._to_read.append(job)
        self._readers.submit(self._read)

    def _read(self) -> None:
        """Reads the next window or silence of a job, on a reader's thread, and queues the job to read on. New jobs are
        read first, as hours of silence are read for minutes."""
        with self._changed:
            job = min(self._to_read, key=lambda job: job.recording.seconds > 0)
            self._to_read.remove(job)
        stretch = error = None
        try:
            stretch = None if job.ended else next(job.windows, None)
        except Exception as caught:
            error = caught
        with self._changed:
            job.reading = False
            if job.ended:
                self._remove(job)
            if error is not None:
                self._end(job, error)
                return
            if stretch is not None and stretch.wave is not None and not job.ended:
                job.waiting.append((job.read, stretch))
                job.read += 1
                self._changed.notify_all()
            self._read_ahead(job)
            self._end_if_done(job)

    def _run(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                self._decode(batch)
        except BaseException as error:
            self.error = error
            with self._changed:
                for job in list(self._jobs):
                    self._end(job, DecodingError("the decoder has stopped"))
            self.on_death()

    def _next_batch(self) -> list[tuple[Job, int, Stretch]] | None:
        """Windows to decode together; None after `close`."""
        with self._changed:
            while not self._closed and not any(job.waiting for job in self._jobs):
                self._changed.wait()
            if self._closed:
                return None
            batch = chosen(self._jobs, self._embeddings, self.options.batch_tokens // self.options.beams)
            for job, number, stretch in batch:
                job.waiting.remove((number, stretch))
                job.decoding += 1
                if job.started is None:
                    job.started = time.monotonic()
                self._read_ahead(job)
            batch[0][0].turn = next(self._turns)
            self.metrics.waiting.set(sum(len(job.waiting) for job in self._jobs))
            return batch

    def _embeddings(self, stretch: Stretch) -> int:
        return speech_embeddings(self.model, stretch.samples)

    def _decode(self, batch: list[tuple[Job, int, Stretch]]) -> None:
        self.metrics.batch_windows.observe(len(batch))
        try:
            answers: list[Any] = answers_to(self.model, [(job.recording, s) for job, _, s in batch], self.options)
        except torch.AcceleratorError:
            raise  # the GPU computes nothing more in this process
        except UserError as error:  # the backend cannot be reached, and was tried for long
            answers = [error] * len(batch)
        except Exception as error:  # out of memory, or a fault of one window: the others are not to suffer
            answers = [error] if len(batch) == 1 else [None] * len(batch)
        for (job, number, stretch), answer in zip(batch, answers, strict=True):
            if answer is None:
                self._decode([(job, number, stretch)])
            else:
                self._add(job, number, stretch, answer)

    def _add(self, job: Job, number: int, stretch: Stretch, answer: Answer | Exception) -> None:
        with self._changed:
            job.decoding -= 1
            if job.ended:
                return
            if isinstance(answer, Exception):
                self._end(job, DecodingError(f"decoding failed: {type(answer).__name__}: {first_line(answer)}"))
                return
            job.answers[number] = (stretch, answer)
            self.metrics.audio_seconds.inc(stretch.seconds)
            while job.added in job.answers:
                job.on_segment(job.recording.add(*job.answers.pop(job.added)))
                job.added += 1
            self._end_if_done(job)

    def _end_if_done(self, job: Job) -> None:
        if job.recording.is_read and not (job.ended or job.reading or job.waiting or job.decoding):
            self._end(job, job.recording.transcript())

    def _end(self, job: Job, result: Transcript | Exception) -> None:
        if not job.ended:
            job.ended = True
            self._remove(job)
            job.on_end(result)

    def _remove(self, job: Job) -> None:
        job.waiting.clear()
        if not job.reading:
            job.windows = iter(())  # closes the recording, which would stay open until the garbage is collected
        if job in self._jobs:
            self._jobs.remove(job)


class DecodingError(Exception):
    """A recording that could not be decoded, for a reason that is not its own."""


def chosen(jobs: list[Job], length: Callable[[Stretch], int], budget: int) -> list[tuple[Job, int, Stretch]]:
    """The windows of the next batch, rows x longest <= budget (or one row): see the module's second point."""
    first = min((job for job in jobs if job.waiting), key=lambda job: job.turn)
    number, stretch = first.waiting[0]
    batch, longest = [(first, number, stretch)], length(stretch)
    least, most = longest / ALIKE, longest * ALIKE
    waiting = [(job, n, s) for job in jobs for n, s in job.waiting if (job, n) != (first, number)]
    others = [other for other in waiting if least <= length(other[2]) <= most]
    for job, n, s in sorted(others, key=lambda other: abs(length(other[2]) - longest)):
        longest = max(longest, length(s))
        if longest * (len(batch) + 1) > budget:
            break
        batch.append((job, n, s))
    return batch


def first_line(error: BaseException) -> str:
    """The first line of an error's message, up to 200 characters."""
    return next(iter(str(error).splitlines()), "")[:200]
