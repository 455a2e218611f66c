"""One utterance made ready for a shard: its audio as 16 kHz mono, its transcript tidied, or the reason why not."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from io import FileIO
from typing import Any, BinaryIO

from data_prep.audio import decode as audio
from data_prep.audio.cuts import STREAMINFO_END, cut_frames, may_be_ready, refuse_silence, sounding_part, stream_info
from data_prep.audio.decode import MAX_SECONDS, SAMPLE_RATE, AudioError, AudioInfo
from data_prep.recordings.open import Stretch, length_of, open_source, read_all
from data_prep.refusals import Refused
from data_prep.shards.tar import MAX_MEDIA_BYTES
from data_prep.text import normalised, require_normaliser, tidy_text
from data_prep.utterance import Utterance
from model.errors import UserError, require_known

MAX_CHARACTERS_PER_SECOND = 60  # three times the fastest speech: past it the transcript is of something else
FREE_CHARACTERS = 100  # on top, so that short cuts are not judged by their rounding
AUDIO_ENCODERS = {"flac": audio.encode_flac, "opus": audio.encode_opus}  # by media, which is the members' extension too
ALWAYS_RECORDED = ("min_seconds", "max_seconds", "verify")


@dataclass(frozen=True)
class Limits:
    """The requirements on an utterance, and how its audio and transcript are changed."""

    normalise: str = "none"  # "none", or one of text.NORMALISERS
    min_seconds: float = 0.0  # shorter utterances are dropped, with a count
    max_seconds: float = float(MAX_SECONDS)  # longer ones too
    verify: bool = True  # decode even what is copied as it is, once, to find what is damaged
    allow_pipes: bool = False  # run the commands that a Kaldi wav.scp gives in place of files
    media: str = "flac"  # a key of AUDIO_ENCODERS
    trim_silence: float | None = None
    """Decibels below its loudest moment at which the ends of an utterance are silence, and cut off; None for never."""
    allow_empty: bool = False  # keep utterances with an empty transcript, whatever is heard, untrimmed

    def __post_init__(self) -> None:
        require_normaliser(self.normalise, "none")
        require_known("format", self.media, AUDIO_ENCODERS)
        require_seconds(self.min_seconds, self.max_seconds)
        if self.trim_silence is not None and not 0 < self.trim_silence <= 120:
            level = f"{self.trim_silence:g}"
            raise UserError(f"trim_silence is {level}, it is decibels below the loudest, 40 say, up to 120")

    def shaping(self) -> dict[str, Any]:
        """The options that change what is written. All but the oldest are left out at their defaults, so that a new
        option does not invalidate what was built before."""
        values = {item.name: (getattr(self, item.name), item.default) for item in fields(self)}
        return {n: value for n, (value, default) in values.items() if n in ALWAYS_RECORDED or value != default}


def require_seconds(least: float, most: float) -> None:
    """UserError for --min-seconds and --max-seconds between which no utterance can be."""
    if not 0 <= least < math.inf:
        raise UserError(f"--min-seconds is {least:g}, it must be seconds from 0 on")
    if not most > 0:
        raise UserError(f"--max-seconds is {most:g}, it must be more than 0")
    if least > most:
        raise UserError(f"--min-seconds {least:g} is more than --max-seconds {most:g}; no utterance is both")


def make_ready(utterance: Utterance, limits: Limits) -> tuple[bytes, int, dict[str, Any]]:
    """Encoded audio, its length in samples at 16 kHz, and the metadata beside it. Raises Refused with the reason, and
    nothing else, for an utterance that cannot be used."""
    written = tidy_text(utterance.text, limits.allow_empty)
    text = normalised(written, limits.normalise)
    with faults_refused():
        source = _source(utterance, limits)
        info = audio.probe(source)
        seconds = utterance.duration
        if seconds is None or info.covered_by(utterance.start, seconds):
            seconds = info.seconds - (utterance.start or 0.0)
        _refuse_length(seconds, limits)
        media, samples, trimmed = _media(utterance, source, info, limits, not written)
    if any(trimmed):
        _refuse_length(samples / SAMPLE_RATE, limits)
    meta = metadata(utterance, written, text, samples)
    if any(trimmed):
        meta["trimmed_seconds"] = [round(count / SAMPLE_RATE, 4) for count in trimmed]  # before and after
    return media, samples, meta


def metadata(utterance: Utterance, written: str, text: str, samples: int) -> dict[str, Any]:
    """The metadata of an utterance with the transcript `text`, `written` before it was normalised. Refused for more
    characters than can be spoken in its time."""
    seconds = samples / SAMPLE_RATE
    if len(written) > FREE_CHARACTERS + MAX_CHARACTERS_PER_SECOND * seconds:
        raise Refused("text-too-long", f"{len(written):,} characters in {seconds:.2f} s of speech")
    meta: dict[str, Any] = {"text": text, "seconds": round(seconds, 4), "meta": dict(utterance.meta)}
    meta |= {"language": utterance.language, "speaker": utterance.speaker, "task": utterance.task}
    return meta if text == written else meta | {"raw_text": written}


def header_of(utterance: Utterance, allow_pipes: bool = False, media: str = "flac") -> tuple[float, int]:
    """Seconds of the utterance, and bytes of the recording if it may be copied as it is, 0 if not. By header and cut
    alone; Refused if they show that it cannot be used."""
    with faults_refused():
        source = open_source(utterance.audio, utterance.part, allow_pipes)
        info = audio.probe(source)
        copied = info.covered_by(utterance.start, utterance.duration) and may_be_ready(info, media)
        _, count = cut_frames(info, utterance.start, utterance.duration)
        return count / info.rate, length_of(source) if copied else 0


@contextmanager
def faults_refused() -> Iterator[None]:
    """Refused in place of an error of a recording."""
    try:
        yield
    except AudioError as error:
        raise Refused(error.reason, str(error)) from None
    except OSError as error:
        reason = "missing-audio" if isinstance(error, FileNotFoundError) else "unreadable"
        raise Refused(reason, error.strerror or "cannot be read") from None


def _source(utterance: Utterance, limits: Limits) -> audio.Source:
    """The recording; its bytes, from opening it once, if it begins as FLAC that is copied as it is."""
    source = open_source(utterance.audio, utterance.part, limits.allow_pipes)
    if limits.media == "flac" and isinstance(source, Stretch):
        opened: BinaryIO | FileIO = source.open()
    elif limits.media == "flac" and isinstance(source, str) and source.endswith(".flac"):
        opened = FileIO(source)
    else:
        return source
    with opened as file:
        info = stream_info(file.read(STREAMINFO_END))
        if info is None or not may_be_ready(info, "flac") or file.seek(0, os.SEEK_END) > MAX_MEDIA_BYTES:
            return source
        if not info.covered_by(utterance.start, utterance.duration):
            return source
        file.seek(0)
        return file.read()


def _refuse_length(seconds: float, limits: Limits) -> None:
    """Before decoding, by the header and the cut; a cut beyond the recording is left to the decoder."""
    if 0 < seconds < limits.min_seconds:
        raise Refused("below-min-seconds", f"{seconds:.2f} s, --min-seconds is {limits.min_seconds:g}", dropped=True)
    if seconds > limits.max_seconds and limits.max_seconds != MAX_SECONDS:
        raise Refused("above-max-seconds", f"{seconds:,.2f} s, --max-seconds is {limits.max_seconds:g}", dropped=True)
    if seconds > MAX_SECONDS:
        raise Refused("too-long", f"{seconds:,.0f} s, an utterance has at most {MAX_SECONDS:,} s: cut it")


def _media(
    utterance: Utterance, source: audio.Source, info: AudioInfo, limits: Limits, is_empty: bool
) -> tuple[bytes, int, tuple[int, int]]:
    """The file's own bytes if they are of the right kind already, else decoded and encoded; the number of samples, and
    how many were cut off before and after. If the transcript `is_empty`, silence is taken, and nothing cut off."""
    data, trim = None, None if is_empty else limits.trim_silence
    whole = info.covered_by(utterance.start, utterance.duration)
    if whole and may_be_ready(info, limits.media) and length_of(source) <= MAX_MEDIA_BYTES:
        recording = read_all(source)
        data = recording if audio.is_ready(recording, info, limits.media) else None
    if data is not None and not limits.verify and trim is None:
        return data, info.frames, (0, 0)
    wave = audio.decode(source, utterance.start, utterance.duration) if data is None else audio.decode(data)
    if not is_empty:
        refuse_silence(wave)
    first, end = (0, len(wave)) if trim is None else sounding_part(wave, trim)
    if data is not None and end - first == len(wave):
        return data, len(wave), (0, 0)
    return AUDIO_ENCODERS[limits.media](wave[first:end]), end - first, (first, len(wave) - end)
