"""What two sets share: words, recordings, speakers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.inspect.audit.measures import Measured
from data_prep.inspect.audit.rules import SHARED_LETTERS


@dataclass(frozen=True)
class Overlap:
    """For each utterance one of the other set that shares something with it."""

    rule: str
    twin: np.ndarray
    """int64 [N]: row of the other set, -1 for none."""
    judged: int
    """Utterances that could be compared."""
    once: str
    """Column: of utterances that share its value, one is shown as an example."""


def overlaps(measured: Measured, other: Measured, same_kind: bool) -> dict[str, Overlap]:
    """By name. `same_kind`: both hold audio, or frames of one encoder; else recordings cannot be compared."""
    rows, theirs = measured.rows, other.rows
    long = rows["letters"] >= SHARED_LETTERS
    heard = (rows["audio_hash"] != 0) & same_kind & bool(len(theirs) and theirs["audio_hash"].any())
    names = np.array(measured.speakers or [""], object)[rows["speaker"]]
    known = {name: number for number, name in enumerate(other.speakers)}
    spoken = np.array([known.get(name, -1) if name else -1 for name in names], np.int64)
    return {
        "overlap-text": Overlap(
            f"the same words as an utterance there, {SHARED_LETTERS} letters or more",
            _twins(rows["text_hash"], theirs["text_hash"], long),
            int(long.sum()),
            "text_hash",
        ),
        "overlap-audio": Overlap(
            "the same samples as an utterance there, all of them",
            _twins(rows["audio_hash"], theirs["audio_hash"], heard),
            int(heard.sum()),
            "audio_hash",
        ),
        "overlap-speaker": Overlap(
            "a speaker of the same name speaks there",
            _twins(spoken, theirs["speaker"].astype(np.int64), spoken >= 0),
            int(np.count_nonzero(names != "")) if any(other.speakers) else 0,
            "speaker",
        ),
    }


def _twins(mine: np.ndarray, theirs: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For each of mine that is wanted the first row of theirs with the same value, else -1."""
    values, first = np.unique(theirs, return_index=True)
    if not len(values):
        return np.full(len(mine), -1, np.int64)
    places = np.minimum(np.searchsorted(values, mine), len(values) - 1)
    return np.where(wanted & (values[places] == mine), first[places], -1)
