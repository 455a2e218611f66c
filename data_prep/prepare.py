"""One utterance made ready for a shard: its bytes as 16 kHz mono FLAC, its transcript tidied, or the reason why not."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from data_prep import audio
from data_prep.audio import SAMPLE_RATE, AudioError, AudioInfo
from data_prep.shards import MAX_MEDIA_BYTES
from data_prep.sources import length_of, open_source, read_all
from data_prep.utterance import Utterance

MAX_CHARACTERS_PER_SECOND = 60  # three times the fastest speech: past it the transcript is of something else
FREE_CHARACTERS = 100  # on top, so that short cuts are not judged by their rounding


class Refused(Exception):
    """An utterance that stays out. `dropped`: by a limit the person set, so it does not count as bad."""

    def __init__(self, reason: str, message: str, dropped: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.dropped = dropped


@dataclass(frozen=True)
class Limits:
    """What an utterance must be, and how it is read."""

    lowercase: bool = False
    """Transcripts in lower case."""
    min_seconds: float = 0.0
    """Shorter utterances are dropped, with a count."""
    max_seconds: float = float(audio.MAX_SECONDS)
    """Longer ones too."""
    verify: bool = True
    """Decode even the FLAC that is copied as it is, once, to find what is damaged."""
    allow_pipes: bool = False
    """Run the commands that a Kaldi wav.scp gives in place of files."""


@dataclass(frozen=True)
class Ready:
    """FLAC bytes, their length at 16 kHz, and the metadata beside them."""

    media: bytes
    samples: int
    meta: dict[str, Any]


def make_ready(utterance: Utterance, limits: Limits) -> Ready:
    """Raises Refused with the reason, and nothing else, for an utterance that cannot be used."""
    text = tidy_text(utterance.text)
    with _faults_refused():
        source = open_source(utterance.audio, utterance.part, limits.allow_pipes)
        info = audio.probe(source)
        _refuse_length(utterance, info, limits)
        media, samples = _media(utterance, source, info, limits.verify)
    seconds = samples / SAMPLE_RATE
    if len(text) > FREE_CHARACTERS + MAX_CHARACTERS_PER_SECOND * seconds:
        raise Refused("text-too-long", f"{len(text):,} characters in {seconds:.2f} s of speech")
    meta = {"text": text.lower() if limits.lowercase else text, "seconds": round(seconds, 4)}
    meta |= {"language": utterance.language, "speaker": utterance.speaker, "task": utterance.task}
    return Ready(media, samples, {**meta, "meta": dict(utterance.meta)})


def stated_seconds(utterance: Utterance, allow_pipes: bool = False) -> float:
    """Length by header and cut alone. Refused if the transcript or the header shows that it cannot be used."""
    tidy_text(utterance.text)
    with _faults_refused():
        return _cut_seconds(utterance, audio.probe(open_source(utterance.audio, utterance.part, allow_pipes)))


def tidy_text(text: str) -> str:
    """The transcript with single spaces and no byte-order mark. Refused if it is empty, no words, or binary."""
    text = " ".join(text.replace("\ufeff", " ").split())
    if not text:
        raise Refused("no-text", "the transcript is empty")
    control = [] if text.isprintable() else [c for c in text if unicodedata.category(c) in ("Cc", "Cs")]
    if control:
        raise Refused("bad-text", f"the transcript holds the control character U+{ord(control[0]):04X}")
    if not any(character.isalnum() for character in text):
        raise Refused("no-words", f"the transcript {text[:40]!r} has no letter and no digit")
    return text


@contextmanager
def _faults_refused() -> Iterator[None]:
    try:
        yield
    except AudioError as error:
        raise Refused(error.reason, str(error)) from None
    except OSError as error:
        reason = "missing-audio" if isinstance(error, FileNotFoundError) else "unreadable"
        raise Refused(reason, error.strerror or "cannot be read") from None


def _refuse_length(utterance: Utterance, info: AudioInfo, limits: Limits) -> None:
    """Before decoding, by what the header and the cut say; a cut that cannot be is left to the decoder."""
    seconds = _cut_seconds(utterance, info)
    if 0 < seconds < limits.min_seconds:
        raise Refused("below-min-seconds", f"{seconds:.2f} s, --min-seconds is {limits.min_seconds:g}", dropped=True)
    if seconds > limits.max_seconds:
        raise Refused("above-max-seconds", f"{seconds:,.2f} s, --max-seconds is {limits.max_seconds:g}", dropped=True)


def _cut_seconds(utterance: Utterance, info: AudioInfo) -> float:
    whole = info.covered_by(utterance.start, utterance.duration)
    if whole or utterance.duration is None:
        return info.seconds - (utterance.start or 0.0)
    return utterance.duration


def _media(utterance: Utterance, source: audio.Source, info: AudioInfo, verify: bool) -> tuple[bytes, int]:
    """The file's own bytes where they are right already, else decoded and encoded; and the number of samples."""
    whole = info.covered_by(utterance.start, utterance.duration)
    if whole and info.format == "FLAC" and length_of(source) <= MAX_MEDIA_BYTES:
        data = read_all(source)
        if audio.is_ready(data, info):
            return data, _verified(data) if verify else info.frames
    wave = audio.decode(source, utterance.start, utterance.duration)
    audio.refuse_silence(wave)
    return audio.encode_flac(wave), len(wave)


def _verified(data: bytes) -> int:
    wave = audio.decode(data)
    audio.refuse_silence(wave)
    return len(wave)
