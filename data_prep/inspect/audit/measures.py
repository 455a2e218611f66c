"""One row of numbers an utterance: all that an audit keeps of it, so that a million of them need 150 MB."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from data_prep.inspect.audit.audio import measure_wave
from data_prep.inspect.audit.text import hash_of, measure_text
from data_prep.shards.index import ShardIndex
from data_prep.shards.tar import Sample
from model.sample_rate import SAMPLE_RATE

ROW = np.dtype(
    [
        ("number", "i8"),  # of the utterance in the index
        ("seconds", "f8"),
        ("characters", "i4"),
        ("language", "i4"),  # position in Measured.languages
        ("speaker", "i4"),
        ("text_hash", "u8"),  # of the words alone
        ("letters", "i4"),  # letters and digits
        ("words", "i4"),  # 0 in scripts without spaces, as the next
        ("longest_word", "i4"),  # characters
        ("capitals", "?"),
        ("digits", "i4"),
        ("markup", "i4"),
        ("control", "i4"),
        ("broken", "i4"),
        ("scripts", "u8"),  # bits
        ("audio_hash", "u8"),  # of the decoded samples, or of the frames; 0 where nothing was decoded
        ("clipped", "f4"),  # share of samples at full scale; NaN without a wave, as all below
        ("dc", "f4"),  # of full scale
        ("level", "f4"),  # dBFS
        ("range", "f4"),  # dB
        ("silence", "f4"),  # share of frames
        ("leading", "f4"),  # seconds
        ("trailing", "f4"),
    ]
)
WAVE = ("clipped", "dc", "level", "range", "silence", "leading", "trailing")


@dataclass(frozen=True)
class Measured:
    """Rows of the utterances that could be read, and the names that they point to."""

    rows: np.ndarray
    """ROW [N]."""
    languages: list[str]
    speakers: list[str]


class Measurer:
    """Measures the utterances of one shard, as check_shard shows them."""

    def __init__(self, index: ShardIndex | None) -> None:
        self._index = index
        self._rows = np.zeros(0 if index is None else len(index), ROW)
        self._count = 0
        self._languages: dict[str, int] = {}
        self._speakers: dict[str, int] = {}

    def look(self, i: int, sample: Sample, wave: np.ndarray | None) -> None:
        """The next utterance; `wave` is None where none was decoded."""
        assert self._index is not None
        meta = sample.meta
        values = {"number": i, "seconds": float(self._index.samples[i]) / SAMPLE_RATE, "characters": len(meta["text"])}
        values["language"] = self._languages.setdefault(str(meta["language"]), len(self._languages))
        values["speaker"] = self._speakers.setdefault(str(meta["speaker"]), len(self._speakers))
        values |= measure_text(meta["text"])
        if wave is not None:
            values |= measure_wave(wave)
        else:
            values |= dict.fromkeys(WAVE, np.nan)
            frames = self._index.kind == "features" and sample.media
            values["audio_hash"] = hash_of(memoryview(sample.media)) if frames else 0
        self._rows[self._count] = tuple(values[name] for name in ROW.fields or ())
        self._count += 1

    def measured(self) -> Measured:
        return Measured(self._rows[: self._count], list(self._languages), list(self._speakers))


def joined(parts: Iterable[tuple[Measured, int]]) -> Measured:
    """Those of shards, each with its first utterance's number, as one."""
    languages: dict[str, int] = {}
    speakers: dict[str, int] = {}
    rows = [np.zeros(0, ROW)]
    for part, first in parts:
        moved = part.rows.copy()
        moved["number"] += first
        moved["language"] = _renumbered(part.rows["language"], part.languages, languages)
        moved["speaker"] = _renumbered(part.rows["speaker"], part.speakers, speakers)
        rows.append(moved)
    return Measured(np.concatenate(rows), list(languages), list(speakers))


def _renumbered(ids: np.ndarray, names: list[str], known: dict[str, int]) -> np.ndarray:
    return np.array([known.setdefault(name, len(known)) for name in names] or [0], np.int32)[ids]
