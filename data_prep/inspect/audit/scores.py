"""The numbers an utterance that rules.py holds against its limits: float [N] of the N rows measured, NaN for "not
judged"."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data_prep.inspect.audit.measures import Measured
from data_prep.inspect.audit.text import SCRIPTS

Score = Callable[[Measured], np.ndarray]
RARE_SCRIPT = 0.05  # share of a language's utterances; an English word in a tenth of Chinese speech is its custom
CAPITALS_LETTERS = 6  # fewer may be initials
UNUSUAL_RATE_MIN_DEVIATION = 0.15  # of a logarithm: reading aloud varies at least so much
UNUSUAL_RATE_MIN_UTTERANCES = 50  # of a language, to know what is usual
SPEAKER_MIN_SPEAKERS = 10  # of few, one may have much


def duplicates(field: str, least_letters: int = 0) -> Score:
    """How many utterances have the same value; 1 of a value of its own."""

    def score(measured: Measured) -> np.ndarray:
        _, places, counts = np.unique(measured.rows[field], return_inverse=True, return_counts=True)
        counted = counts[places].astype(float)
        return np.where((measured.rows["letters"] >= least_letters) & (measured.rows[field] != 0), counted, np.nan)

    return score


def contradictions(measured: Measured) -> np.ndarray:
    """How many different transcripts the same audio has."""
    rows = measured.rows
    audio, text = rows["audio_hash"], rows["text_hash"]
    order = np.lexsort((text, audio))
    new_text = np.ones(len(rows), bool)
    new_text[1:] = (np.diff(audio[order]) != 0) | (np.diff(text[order]) != 0)
    found, counts = np.unique(audio[order][new_text], return_counts=True)
    return np.where(audio != 0, counts[np.searchsorted(found, audio)].astype(float), np.nan)


def foreign_scripts(measured: Measured) -> np.ndarray:
    """Bits of the scripts that few utterances of the same language have; 0 for none."""
    foreign = np.zeros(len(measured.rows), np.uint64)
    for mine in _by_language(measured):
        scripts = measured.rows["scripts"][mine]
        shares = {bit: np.mean(scripts >> np.uint64(bit) & np.uint64(1)) for bit in range(len(SCRIPTS))}
        few = max(RARE_SCRIPT, 1 / len(mine))  # in a small set one utterance is rare, whatever its share
        main = max(shares.values())
        rare = sum(1 << bit for bit, share in shares.items() if 0 < share < main and share <= few)
        foreign[mine] = scripts & np.uint64(rare)
    return foreign.astype(float)


def rate_deviation(measured: Measured) -> np.ndarray:
    """|deviation| of log(characters a second) from its language's median, in robust standard deviations."""
    score = np.full(len(measured.rows), np.nan)
    for mine in _by_language(measured):
        if len(mine) >= UNUSUAL_RATE_MIN_UTTERANCES:
            rows = measured.rows[mine]
            logs = np.log(np.maximum(rows["characters"], 1) / np.maximum(rows["seconds"], 1e-3))
            off = np.abs(logs - np.median(logs))
            score[mine] = off / max(1.4826 * float(np.median(off)), UNUSUAL_RATE_MIN_DEVIATION)
    return score


def speaker_share(measured: Measured) -> np.ndarray:
    """Share of the hours that the utterance's speaker has."""
    rows = measured.rows
    nameless = _nameless(measured.speakers)
    if np.count_nonzero(~nameless) < SPEAKER_MIN_SPEAKERS:
        return np.full(len(rows), np.nan)
    shares = np.bincount(rows["speaker"], rows["seconds"], len(nameless)) / rows["seconds"].sum()
    return np.where(nameless[rows["speaker"]], np.nan, shares[rows["speaker"]])


def missing(field: str, names: str) -> Score:
    """1 where a name is empty that others have."""

    def score(measured: Measured) -> np.ndarray:
        nameless = _nameless(getattr(measured, names))
        return nameless[measured.rows[field]].astype(float) * (not nameless.all())

    return score


def column(field: str, least_seconds: float = 0.0) -> Score:
    return lambda m: np.where(m.rows["seconds"] >= least_seconds, m.rows[field].astype(float), np.nan)


def per_second(field: str, least_seconds: float = 0.0) -> Score:
    def score(measured: Measured) -> np.ndarray:
        seconds = measured.rows["seconds"]
        return np.where(seconds >= least_seconds, measured.rows[field] / np.maximum(seconds, 1e-3), np.nan)

    return score


def capitals(measured: Measured) -> np.ndarray:
    return (measured.rows["capitals"] & (measured.rows["letters"] >= CAPITALS_LETTERS)).astype(float)


def _by_language(measured: Measured) -> list[np.ndarray]:
    """The rows of each language."""
    ids = measured.rows["language"]
    order = np.argsort(ids, kind="stable")
    return [mine for mine in np.split(order, np.flatnonzero(np.diff(ids[order])) + 1) if len(mine)]


def _nameless(names: list[str]) -> np.ndarray:
    return np.array([not name for name in names] or [True], bool)
