"""Aligns utterances word by word, marks the errors in the text, and counts confusions.

An alignment is one line: the reference, with `be→bee` for a substitution, a struck-out word for a deletion and an
underlined one for an insertion. The signs are in report.css, and do not rely on colour."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import jiwer
from markupsafe import Markup, escape

from data_prep.text import normaliser as normaliser_of
from decode.report.display import visible

MOST_WORDS, MOST_CHARACTERS = 250, 12_000  # shown of one alignment, the latter as HTML
MOST_INSERTED, FIRST_INSERTED = 16, 10  # a longer run of insertions, as in loops, is cut to the first


@dataclass(frozen=True)
class Aligned:
    """One utterance: its row of results.jsonl, and its words under the normaliser."""

    row: dict[str, Any]
    pairs: tuple[
        tuple[str, str], ...
    ]  # (reference, hypothesis): ("be", "bee"), deleted ("the", ""), inserted ("", "a")
    words: int  # of the reference
    substitutions: int
    deletions: int
    insertions: int

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float | None:
        """None without reference words."""
        return self.errors / self.words if self.words else None


def align(rows: Sequence[dict[str, Any]], normaliser: str) -> list[Aligned]:
    """Every row's "reference" and "hypothesis", aligned by jiwer; UserError for an unknown normaliser."""
    clean = normaliser_of(normaliser)
    if not rows:
        return []
    output = jiwer.process_words([clean(row["reference"]) for row in rows], [clean(row["hypothesis"]) for row in rows])
    parts = zip(rows, output.references, output.hypotheses, output.alignments, strict=True)
    return [_aligned(row, list(_pairs(reference, hypothesis, chunks))) for row, reference, hypothesis, chunks in parts]


def _aligned(row: dict[str, Any], pairs: list[tuple[str, str]]) -> Aligned:
    hits = sum(old == new for old, new in pairs)
    deletions, insertions = sum(not new for _, new in pairs), sum(not old for old, _ in pairs)
    words = len(pairs) - insertions
    return Aligned(row, tuple(pairs), words, words - hits - deletions, deletions, insertions)


def _pairs(reference: list[str], hypothesis: list[str], chunks: list[Any]) -> Iterable[tuple[str, str]]:
    for chunk in chunks:
        old = reference[chunk.ref_start_idx : chunk.ref_end_idx]
        new = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "delete":
            yield from ((word, "") for word in old)
        elif chunk.type == "insert":
            yield from (("", word) for word in new)
        else:
            yield from zip(old, new, strict=True)


def marked(utterance: Aligned) -> Markup:
    """The alignment as HTML, with all words escaped: at most MOST_WORDS, then the number of the rest."""
    shown = list[tuple[str, str]]()  # kind, HTML
    length = 0
    for old, new in utterance.pairs[:MOST_WORDS]:
        kind = "hit" if old == new else "deleted" if not new else "inserted" if not old else "substituted"
        both = kind == "substituted"
        shown.append((kind, f"<b><del>{_word(old)}</del><ins>{_word(new)}</ins></b>" if both else _word(old or new)))
        length += len(shown[-1][1])
        if length > MOST_CHARACTERS:
            break
    parts = [_run(kind, [html for _, html in run]) for kind, run in groupby(shown, itemgetter(0))]
    if (more := len(utterance.pairs) - len(shown)) > 0:
        parts.append(_more(more))
    return Markup(" ".join(parts))  # escaped words and our tags


def _run(kind: str, words: list[str]) -> str:
    """The HTML of a run of words of one kind."""
    keep = FIRST_INSERTED if kind == "inserted" and len(words) > MOST_INSERTED else len(words)
    text = " ".join(words[:keep]) + (f" {_more(len(words) - keep)}" if keep < len(words) else "")
    return {"deleted": f"<del>{text}</del>", "inserted": f"<ins>{text}</ins>"}.get(kind, text)


def _more(words: int) -> str:
    return f"<i>\u2026 {words:,} more</i>"


def _word(word: str) -> str:
    return str(escape(visible(word)))


@dataclass(frozen=True)
class Confusion:
    """A kind of error, and how often it occurs."""

    reference: str  # empty for an insertion
    hypothesis: str  # empty for a deletion
    times: int
    of: int  # occurrences of the word in the references; 0 for an insertion


@dataclass(frozen=True)
class Confusions:
    """The most frequent errors of each type, in descending order."""

    substituted: list[Confusion]
    deleted: list[Confusion]
    inserted: list[Confusion]


def confusions(utterances: Sequence[Aligned], most: int = 25) -> Confusions:
    """Counts errors over all utterances; at most `most` of each type."""
    pairs = Counter(pair for utterance in utterances for pair in utterance.pairs)
    spoken = Counter[str]()
    for (old, _), times in pairs.items():
        spoken[old] += times if old else 0

    def top(kind: Iterable[tuple[str, str]]) -> list[Confusion]:
        first = sorted(kind, key=lambda pair: (-pairs[pair], pair))[:most]
        return [Confusion(old, new, pairs[old, new], spoken[old]) for old, new in first]

    return Confusions(
        top((old, new) for old, new in pairs if old and new and old != new),
        top((old, new) for old, new in pairs if not new),
        top((old, new) for old, new in pairs if not old),
    )
