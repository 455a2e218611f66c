"""Word and character error rates, over a corpus and by group.

Rates are sums of errors over sums of reference words (characters), never means over utterances. With an empty reference
every word of a hypothesis is an insertion; without any reference word a rate is `nan` (null in JSON, "-" in tables).

The split into substitutions, deletions and insertions depends on the aligner (totals do not), so `ALIGNER` is written
beside the numbers."""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jiwer

from data_prep import figures
from data_prep.utterance import read_rows
from decode.dataset import Hypothesis
from model.errors import UserError, counted

ALIGNER = f"jiwer {version('jiwer')}, Levenshtein, each error counts 1"
APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\uff07\u00b4\u0060", "'"))
OUTSIDE_A_WORD = re.compile(r"(?<!\w)'|'(?!\w)")


@dataclass(frozen=True)
class Score:
    """Errors of one or more utterances; scores add up."""

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
        """Word error rate as a fraction; above 1 if much is inserted, nan without reference words."""
        return self.errors / self.words if self.words else math.nan

    @property
    def cer(self) -> float:
        """Character error rate as a fraction; nan without reference characters."""
        return self.character_errors / self.characters if self.characters else math.nan

    def __add__(self, other: "Score") -> "Score":
        return Score(*map(int.__add__, astuple(self), astuple(other)))

    def as_json(self) -> dict[str, Any]:
        """wer, cer (null for nan) and all counts."""
        rates = {"wer": self.wer, "cer": self.cer}
        return {name: None if math.isnan(rate) else rate for name, rate in rates.items()} | asdict(self)


def score(references: Sequence[str], hypotheses: Sequence[str], normaliser: str = "plain") -> Score:
    """All utterances together."""
    return sum(score_each(references, hypotheses, normaliser), Score())


def score_each(references: Sequence[str], hypotheses: Sequence[str], normaliser: str = "plain") -> list[Score]:
    """One score an utterance; UserError for a normaliser that is not in NORMALISERS."""
    if normaliser not in NORMALISERS:
        raise UserError(f"unknown normaliser {normaliser!r}; known: {', '.join(NORMALISERS)}")
    clean = NORMALISERS[normaliser]
    return [_score_one(clean(ref), clean(hyp)) for ref, hyp in zip(references, hypotheses, strict=True)]


def by_group(groups: Sequence[str], scores: Sequence[Score]) -> dict[str, Score]:
    """The scores added up by group, in the order of the groups' names."""
    sums: dict[str, Score] = {}
    for group, utterance in zip(groups, scores, strict=True):
        sums[group] = sums.get(group, Score()) + utterance
    return dict(sorted(sums.items()))


def table(rows: Iterable[tuple[str, Score]], heading: str = "") -> str:
    """Lines of aligned text, one a row, rates in per cent."""

    def cells(name: str, s: Score) -> list[object]:
        wer, cer = ("-" if math.isnan(rate) else f"{100 * rate:.2f}" for rate in (s.wer, s.cer))
        counts = (s.utterances, s.words, wer, s.substitutions, s.deletions, s.insertions, cer)
        return [name, *(f"{cell:,}" if isinstance(cell, int) else cell for cell in counts)]

    head = (heading, "utterances", "words", "WER %", "sub", "del", "ins", "CER %")
    return "\n".join(figures.table([cells(*row) for row in rows], head))


def verbatim(text: str) -> str:
    """Every character counts: Unicode NFC, and white space collapsed to single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def plain(text: str) -> str:
    """Only words count: NFKC, case folded, punctuation and symbols to spaces ("well-known" is two words), but
    straightened apostrophes inside words stay; invisible characters vanish, and white space is collapsed."""
    text = unicodedata.normalize("NFKC", text.translate(APOSTROPHES)).casefold()
    characters = []
    for character in unicodedata.normalize("NFKC", text):
        category = unicodedata.category(character)
        if category != "Cf":  # zero-width joiners, soft hyphens, direction marks
            characters.append(" " if category[0] in "PS" and character != "'" else character)
    return " ".join(OUTSIDE_A_WORD.sub(" ", "".join(characters)).split())


NORMALISERS: dict[str, Callable[[str], str]] = {"verbatim": verbatim, "plain": plain}


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


def read_pairs(references: Path, hypotheses: Path) -> tuple[list[Hypothesis], list[dict[str, Any]]]:
    """The utterances of two JSONL files in the order of the references, and the references' whole rows.

    A reference is in "reference", else "text"; a hypothesis in "hypothesis", else "text": our results.jsonl can be
    both files. UserError unless both files hold the same keys, each once, with text."""
    truth, answers = _texts(references, "reference"), _texts(hypotheses, "hypothesis")
    for keys, others, path, other in (truth, answers, references, hypotheses), (answers, truth, hypotheses, references):
        if missing := [key for key in keys if key not in others]:
            names = ", ".join(missing[:3]) + " ..." * (len(missing) > 3)
            where = f"{counted(len(missing), 'utterance')} of {path} missing in {other}"
            raise UserError(f"{where}: {names}; give files of the same data")
    if not truth:
        raise UserError(f"{references} holds no utterances; there is nothing to score")
    rows = [Hypothesis(key, text, answers[key][0]) for key, (text, _) in truth.items()]
    return rows, [fields for _, fields in truth.values()]


def _texts(path: Path, name: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """{key: (text, the whole row)}."""
    rows: dict[str, tuple[str, dict[str, Any]]] = {}
    for place, row in read_rows(path):
        key, text = row.get("key"), row.get(name, row.get("text"))
        if not isinstance(key, str) or not isinstance(text, str):
            raise UserError(f'{place}: a line needs "key" and "{name}" (or "text"), both text')
        if key in rows:
            raise UserError(f"{place}: key {key!r} is there twice; every utterance has one line")
        rows[key] = (text, row)
    return rows
