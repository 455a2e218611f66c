"""Confidence intervals of a WER by bootstrap, and the significance of a difference between two systems.

Bootstrap (Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004),
by speaker (Liu and Peng, "Statistical testing on ASR performance via blockwise bootstrap", Interspeech 2020): errors of
one speaker's utterances are correlated, so whole speakers are resampled with replacement, as many as there are, up to
10,000 times; the interval is the middle 95 % of the WERs of these resamples. Few speakers are not representative of
others, so with fewer than MIN_SPEAKERS, or if the speaker of any utterance is unknown, utterances are resampled
instead: such an interval holds for these speakers only. Utterances in which nothing is said need no speaker: they are
units of their own beside the speakers.

Two systems on the same utterances: the difference of WERs with an interval from the same resamples, and the paired
sign-flip test (Fisher, The Design of Experiments, 1935, section 21): if both were equally good, each speaker's
difference in errors would be as likely with the other sign. p is the fraction of all 2^n choices of signs whose sum is
at least as far from 0. Error counts are integers, so all choices can be counted by their sums.

U units (speakers or utterances), R draws."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from decode.scoring.counts import Score

MIN_SPEAKERS = 10
SEED, MOST_DRAWS, FEWEST_DRAWS = 0, 10_000, 1_000
DRAWN_UNITS = 10_000_000  # in all, some 0.2 s; with more than 1,000 units there are fewer than MOST_DRAWS
AT_A_TIME = 100_000  # units, so that their counts fit into a core's cache
MOST_COUNTED = 2_000_000_000  # additions of the exact test, some seconds; above, the normal approximation


@dataclass(frozen=True)
class Units:
    """The units of resampling: speakers or utterances."""

    kind: str  # "speaker" or "utterance"
    of: np.ndarray  # int64 [utterances]: the unit of each
    silent: int = 0  # units beside the speakers: utterances without reference words and without a speaker

    @property
    def number(self) -> int:
        return int(self.of.max()) + 1 if len(self.of) else 0

    def sums(self, *columns: Sequence[int]) -> np.ndarray:
        """Utterances' counts summed by unit, float64 [U, columns]."""
        return np.stack([np.bincount(self.of, column, self.number) for column in columns], axis=1)

    def as_json(self) -> dict[str, Any]:
        beside = {"silent_utterances": self.silent} if self.silent else {}  # of the units
        return {"unit": self.kind, "units": self.number, **beside, "draws": number_of_draws(self.number), "seed": SEED}


def units_of(speakers: Sequence[str], scores: Sequence[Score] = ()) -> Units:
    """Speakers if those of all utterances are known and there are at least MIN_SPEAKERS, else utterances. By `scores`,
    one an utterance, those without reference words need no speaker."""
    silent = [i for i, score in enumerate(scores) if not (score.words or speakers[i])]
    of = {name: number for number, name in enumerate(sorted({*speakers} - {""}))}
    if len(of) < MIN_SPEAKERS or sum(not name for name in speakers) > len(silent):
        return Units("utterance", np.arange(len(speakers)))
    alone = dict(zip(silent, range(len(of), len(of) + len(silent)), strict=True))
    numbers = [alone[i] if i in alone else of[name] for i, name in enumerate(speakers)]
    return Units("speaker", np.array(numbers, np.int64), len(silent))


def number_of_draws(units: int) -> int:
    return max(FEWEST_DRAWS, min(MOST_DRAWS, DRAWN_UNITS // max(units, 1)))


def draws(units: int) -> Iterator[np.ndarray]:
    """Yields the units of each draw, int64 [some, U], R draws in all; always the same."""
    generator, left = np.random.default_rng(SEED), number_of_draws(units)
    while left > 0:
        some = min(left, max(1, AT_A_TIME // units))
        yield generator.integers(0, units, (some, units))
        left -= some


def interval(scores: Sequence[Score], units: Units) -> list[float] | None:
    """95 % interval of the WER, as fractions; None for fewer than two units, or no words."""
    if units.number < 2 or not any(score.words for score in scores):
        return None
    errors, words = _drawn(units.sums([s.errors for s in scores], [s.words for s in scores])).T
    return _middle(errors, words)


def _drawn(sums: np.ndarray) -> np.ndarray:
    """The rows [U, columns] summed over each draw, [R, columns]."""
    number, drawn = len(sums), []
    for chosen in draws(number):
        places = chosen + number * np.arange(len(chosen))[:, None]
        times = np.bincount(places.ravel(), minlength=chosen.size).reshape(chosen.shape)
        drawn.append(times.astype(np.float64) @ sums)
    return np.concatenate(drawn)


def _middle(errors: np.ndarray, words: np.ndarray) -> list[float]:
    """The 2.5th and 97.5th percentile of errors / words; draws without words are left out."""
    spoken = words > 0
    return [float(rate) for rate in np.percentile(errors[spoken] / words[spoken], [2.5, 97.5])]


@dataclass(frozen=True)
class Difference:
    """The WER of a system minus that of another on the same utterances."""

    wer: float  # of the other system
    difference: float  # below 0: this one has fewer errors
    interval: list[float] | None
    p: float
    test: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(scores: Sequence[Score], others: Sequence[Score], units: Units) -> Difference | None:
    """Compares two systems on the same references in the same order; None without reference words."""
    words = sum(score.words for score in scores)
    if not words:
        return None
    sums = units.sums(*([s.errors for s in each] for each in (scores, others)), [s.words for s in scores])
    here, there = sums[:, 0], sums[:, 1]
    drawn = _drawn(sums) if units.number > 1 else None
    middle = None if drawn is None else _middle(drawn[:, 0] - drawn[:, 1], drawn[:, 2])
    p, exact = sign_flip_p((here - there).astype(np.int64))
    test = f"paired sign-flip test by {units.kind}, {'exact' if exact else 'normal approximation'}"
    return Difference(float(there.sum()) / words, float((here - there).sum()) / words, middle, p, test)


def sign_flip_p(differences: np.ndarray) -> tuple[float, bool]:
    """Two-sided p of integer differences int64 [U], and whether it is exact."""
    sizes = np.sort(np.abs(differences[differences != 0]))
    observed, total = abs(int(differences.sum())), int(sizes.sum())
    if len(sizes) * total > MOST_COUNTED:
        return math.erfc(observed / math.sqrt(2 * float((sizes.astype(float) ** 2).sum()))), False
    share = np.zeros(total + 1)  # fraction of sign choices by the sum of their positive differences
    share[0], most = 1.0, 0
    for size in map(int, sizes):
        half = share[: most + 1] / 2
        share[: most + 1] = half
        most += size
        share[size : most + 1] += half
    signed = 2 * np.arange(total + 1) - total
    return min(1.0, float(share[np.abs(signed) >= observed].sum())), True
