"""Transcribes recordings, files that soundfile can read or arrays, in the order given.

1. A recording of at most `longest` seconds is one window; a longer one is split at silences (segments.py) while it is
   read, so that memory does not depend on its length. Silence is not decoded.
2. Windows are read ahead, across recordings, until there are READ_AHEAD_SECONDS or READ_AHEAD_WINDOWS of them.
3. They are decoded in batches of about equal lengths; a transcript is yielded once all of its windows are decoded."""

import math
import os
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

import numpy as np
import torch

from data_prep.audio.cuts import AudioError
from data_prep.audio.decode import Openable, decode, probe
from data_prep.audio.stream import from_array, stream
from decode.generate import plan_batches, transcripts, unfit
from decode.options import Answer, DecodeOptions
from decode.recordings.segments import LEAST_SECONDS, Stretch, require_vad, split, whole
from decode.recordings.transcript import Segment, Transcript
from model.batch import pack
from model.errors import require_at_least
from model.sample_rate import SAMPLE_RATE
from model.slam_asr import SlamAsr

READ_AHEAD_SECONDS = 300  # of windows: enough for full batches, and the first transcripts still come soon
READ_AHEAD_WINDOWS = 256
LONGEST_SECONDS = 30.0  # of a window: the common limit of training utterances, and Whisper's window

Source = str | Path | bytes | Openable | np.ndarray | torch.Tensor
Progress = Callable[[float], None]  # called with the seconds of audio decoded since the last call


@dataclass
class Recording:
    """A recording that is being read or decoded. Its windows are added in their order."""

    name: str
    seconds: float = 0.0  # read so far
    silent_seconds: float = 0.0
    segments: list[Segment] = field(default_factory=list)
    logprob: float = 0.0  # nats, the sum over all tokens
    tokens: int = 0
    waiting: int = 0  # windows read and not yet decoded
    is_read: bool = False
    failure: AudioError | OSError | None = None

    @property
    def error(self) -> str:
        """Why it cannot be transcribed, on one line; empty if it can."""
        if isinstance(self.failure, OSError):
            return self.failure.strerror or type(self.failure).__name__
        return str(self.failure or "")

    def add(self, stretch: Stretch, answer: Answer) -> Segment:
        """Adds the segment of a decoded window, and returns it."""
        start, end = (place / SAMPLE_RATE for place in stretch.speech)
        segment = Segment(start, end, answer.text, answer.confidence, answer.note, answer.alternatives)
        self.segments.append(segment)
        self.logprob += math.fsum(answer.logprobs)
        self.tokens += len(answer.logprobs)
        self.waiting -= 1
        return segment

    def transcript(self) -> Transcript:
        if self.error:
            return Transcript(self.name, self.seconds, error=self.error)
        confidence = math.exp(self.logprob / self.tokens) if self.tokens else 0.0
        return Transcript(self.name, self.seconds, tuple(self.segments), confidence, self.silent_seconds)


Window = tuple[Recording, Stretch]


def transcribe_each(
    model: SlamAsr,
    sources: Iterable[Source],
    options: DecodeOptions | None = None,
    sample_rate: int = SAMPLE_RATE,
    longest: float | None = None,
    vad: str = "energy",
    progress: Progress | None = None,
) -> Iterator[Transcript]:
    """Yields the transcript of every recording, in order; one that cannot be transcribed has an error, and the others
    continue. `sample_rate` is that of arrays; `longest` None is what suits the adapter. UserError for an unknown `vad`
    and a `longest` under LEAST_SECONDS."""
    longest = longest_window(model.utterance_seconds) if longest is None else longest
    require_at_least("longest", longest, LEAST_SECONDS)
    require_vad(vad)
    options, done = options or DecodeOptions(), progress or (lambda seconds: None)
    recordings, windows = deque[Recording](), list[Window]()
    for source in sources:
        recording = Recording(os.fspath(source) if isinstance(source, str | Path) else "")
        recordings.append(recording)
        for stretch in read_windows(recording, stretches_of(model, source, sample_rate, longest, vad)):
            if stretch.wave is None:
                continue
            recording.waiting += 1
            windows.append((recording, stretch))
            if len(windows) >= READ_AHEAD_WINDOWS or sum(s.seconds for _, s in windows) >= READ_AHEAD_SECONDS:
                _decode(model, windows, options, done)
                yield from _finished(recordings)
                windows = []
        if not windows:
            yield from _finished(recordings)
    _decode(model, windows, options, done)
    yield from _finished(recordings)


def read_windows(recording: Recording, stretches: Iterator[Stretch]) -> Iterator[Stretch]:
    """Yields the windows to decode, and the silences; adds silence and errors to the recording."""
    while not recording.is_read:
        try:
            stretch = next(stretches, None)
        except (AudioError, OSError) as error:
            recording.failure, stretch = error, None
        if stretch is None:
            recording.is_read = True
            continue
        recording.seconds = stretch.end / SAMPLE_RATE
        if stretch.wave is None:
            recording.silent_seconds += stretch.seconds
        yield stretch


def stretches_of(model: SlamAsr, source: Source, sample_rate: int, longest: float, vad: str) -> Iterator[Stretch]:
    """The windows, none too long for the LLM, and the silences of a recording. AudioError, OSError."""
    assert model.encoder is not None, "audio needs an encoder"
    if _is_recorded(source):
        is_short = probe(source).seconds <= longest
        blocks = iter([decode(source)]) if is_short else stream(source)
    else:
        wave = from_array(_samples(source), sample_rate)
        is_short, blocks = len(wave) <= longest * SAMPLE_RATE, iter([wave])
    if is_short:
        wave = next(blocks)
        reason = unfit(model, model.encoder.out_len(len(wave)))
        if reason == "too-short":
            least = bisect_left(range(60 * SAMPLE_RATE), 1, key=lambda n: speech_embeddings(model, n))
            raise AudioError(
                reason,
                f"{len(wave) / SAMPLE_RATE:.3f} s is too short to transcribe; {least / SAMPLE_RATE:.3f} s is enough",
            )
        if reason is None:
            yield whole(wave, vad)
            return
        blocks = iter([wave])
    yield from split(blocks, _longest_that_fits(model, longest), vad)


def _is_recorded(source: Source) -> TypeGuard[str | Path | bytes | Openable]:
    return isinstance(source, str | Path | bytes) or hasattr(source, "open")


def _samples(source: Source) -> np.ndarray:
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        return (source.float() if source.is_floating_point() else source).numpy()
    if not hasattr(source, "__array__"):
        kind = type(source).__name__
        raise AudioError("bad-kind", f"{kind}, expected a path, the bytes of a file, an array or a tensor")
    return np.asarray(source)


def longest_window(utterance_seconds: float) -> float:
    """The seconds of the longest window that suit an adapter: about the length of its training utterances (0 if that is
    not known), as longer ones are transcribed worse."""
    return min(LONGEST_SECONDS, max(LEAST_SECONDS, utterance_seconds or LONGEST_SECONDS))


def _longest_that_fits(model: SlamAsr, longest: float) -> float:
    """Seconds of the longest window, at most `longest`, whose speech takes at most half of the LLM's positions; the
    other half is left for the answer."""
    if model.max_positions is None:
        return longest
    words = len(model.prompt.prefix_ids) + len(model.prompt.suffix_ids)
    places = (model.max_positions - words) // 2
    samples = range(int(longest * SAMPLE_RATE) + 1)
    fits = bisect_left(samples, places + 1, key=lambda n: speech_embeddings(model, n)) - 1
    if fits < LEAST_SECONDS * SAMPLE_RATE:
        few = f"the LLM has {model.max_positions} positions, too few for {LEAST_SECONDS:g} s of speech"
        raise AudioError("too-long", f"{few} and its text; use another LLM")
    return fits / SAMPLE_RATE


def _decode(model: SlamAsr, windows: list[Window], options: DecodeOptions, done: Progress) -> None:
    """Decodes the windows and adds their texts to their recordings, in order."""
    answers = list[Answer | None]([None] * len(windows))
    lengths = [speech_embeddings(model, stretch.samples) for _, stretch in windows]
    for batch in plan_batches(lengths, options.batch_tokens // options.beams):
        for i, answer in zip(batch, answers_to(model, [windows[i] for i in batch], options), strict=True):
            answers[i] = answer
        done(sum(windows[i][1].seconds for i in batch))
    for (recording, stretch), answer in zip(windows, answers, strict=True):
        assert answer is not None
        recording.add(stretch, answer)


def answers_to(model: SlamAsr, windows: Sequence[Window], options: DecodeOptions) -> list[Answer]:
    """The answers of a batch of windows."""
    names = [recording.name for recording, _ in windows]
    waves = [torch.from_numpy(np.asarray(stretch.wave)) for _, stretch in windows]
    batch = pack(names, [""] * len(windows), [[]] * len(windows), waves=waves)
    return transcripts(model, batch, options)


def _finished(recordings: deque[Recording]) -> Iterator[Transcript]:
    """Removes the recordings at the front that are finished, and yields their transcripts."""
    while recordings and recordings[0].is_read and not recordings[0].waiting:
        yield recordings.popleft().transcript()


def speech_embeddings(model: SlamAsr, samples: int) -> int:
    """The speech embeddings of so many samples at 16 kHz."""
    assert model.encoder is not None
    return model.adapter.out_len(model.encoder.out_len(samples))
