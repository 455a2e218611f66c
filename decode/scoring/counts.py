"""Word and character error rates, over a corpus and by group.

Rates are sums of errors over sums of reference words (characters), never means over utterances. With an empty reference
every word of the hypothesis is an insertion; without any reference words a rate is `nan` (null in JSON, "-" in tables).

The split into substitutions, deletions and insertions depends on the aligner (the totals do not), so score.json names
it (ALIGNER)."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from importlib.metadata import version
from typing import Any

import jiwer

from data_prep.text import normaliser as normaliser_of

ALIGNER = f"jiwer {version('jiwer')}, Levenshtein, each error counts 1"


@dataclass(frozen=True)
class Score:
    """Error counts of one or more utterances; scores can be added."""

    utterances: int = 0
    words: int = 0  # of the references
    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    characters: int = 0  # of the references, spaces included
    character_errors: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float:
        """Word error rate as a fraction; may exceed 1, nan without reference words."""
        return self.errors / self.words if self.words else math.nan

    @property
    def cer(self) -> float:
        """Character error rate as a fraction; nan without reference characters."""
        return self.character_errors / self.characters if self.characters else math.nan

    def __add__(self, other: "Score") -> "Score":
        return Score(*map(int.__add__, astuple(self), astuple(other)))

    def as_json(self) -> dict[str, Any]:
        """wer and cer (None for nan), and all counts."""
        rates = {"wer": self.wer, "cer": self.cer}
        return {name: None if math.isnan(rate) else rate for name, rate in rates.items()} | asdict(self)


def score(references: Sequence[str], hypotheses: Sequence[str], normaliser: str = "plain") -> Score:
    """The score of all utterances together."""
    return sum(score_each(references, hypotheses, normaliser), Score())


def score_each(references: Sequence[str], hypotheses: Sequence[str], normaliser: str = "plain") -> list[Score]:
    """One score per utterance; UserError for a normaliser that data_prep.text does not have."""
    spelt = normaliser_of(normaliser)
    return [_score_one(spelt(ref), spelt(hyp)) for ref, hyp in zip(references, hypotheses, strict=True)]


def by_group(groups: Sequence[str], scores: Sequence[Score]) -> dict[str, Score]:
    """The total score of each group, sorted by name, with numbers in names by value."""
    sums: dict[str, Score] = {}
    for group, utterance in zip(groups, scores, strict=True):
        sums[group] = sums.get(group, Score()) + utterance
    return {name: sums[name] for name in sorted(sums, key=_by_value)}


def longest_deletion(reference: str, hypothesis: str, normaliser: str = "plain") -> int:
    """The longest run of deleted reference words in the alignment."""
    spelt = normaliser_of(normaliser)
    [chunks] = jiwer.process_words([spelt(reference)], [spelt(hypothesis)]).alignments
    return max((c.ref_end_idx - c.ref_start_idx for c in chunks if c.type == "delete"), default=0)


def _score_one(reference: str, hypothesis: str) -> Score:
    words = jiwer.process_words([reference], [hypothesis])
    letters = jiwer.process_characters([reference], [hypothesis])
    return Score(
        utterances=1,
        words=words.hits + words.substitutions + words.deletions,
        hits=words.hits,
        substitutions=words.substitutions,
        deletions=words.deletions,
        insertions=words.insertions,
        characters=letters.hits + letters.substitutions + letters.deletions,
        character_errors=letters.substitutions + letters.deletions + letters.insertions,
    )


def _by_value(name: str) -> list[tuple[int, int, str]]:
    """A sort key: speaker 9 before speaker 10."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part[:18]), part) if part[:1].isdecimal() else (1, 0, part) for part in parts if part]
