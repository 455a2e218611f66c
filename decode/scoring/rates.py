"""Counts of loops, hallucinations and deletion bursts, from texts alone."""

from collections.abc import Sequence
from typing import Any

from decode.guard import is_loop
from decode.scoring.counts import Score, longest_deletion
from decode.scoring.reading import Row

BURST_WORDS = 5  # deleted in a row: a part of the audio was skipped


def flags_of(row: Row, score: Score, normaliser: str) -> list[str]:
    """Those that apply of "loop", "hallucination" (words although nothing is said) and "deletion-burst"."""
    burst = score.deletions >= BURST_WORDS and _burst(row, normaliser) >= BURST_WORDS
    found = {
        "loop": is_loop(row.hypothesis),
        "hallucination": is_silent(row, score) and score.hits + score.substitutions + score.insertions > 0,
        "deletion-burst": burst,
    }
    return [name for name, applies in found.items() if applies]


def is_silent(row: Row, score: Score) -> bool:
    """Whether nothing is said: the reference has no words, or the corpus marks the utterance as `silent`."""
    return score.words == 0 or bool(row.fields.get("silent"))


def rates(rows: Sequence[Row], scores: Sequence[Score], flags: Sequence[list[str]]) -> dict[str, Any]:
    """The numbers of utterances and words by flag, over all utterances."""
    having = {name: [i for i, row in enumerate(flags) if name in row] for name in ("loop", "hallucination")}
    written = [scores[i].hits + scores[i].substitutions + scores[i].insertions for i in having["hallucination"]]
    return {
        "loops": len(having["loop"]),
        "silent_utterances": sum(map(is_silent, rows, scores)),
        "hallucinated_utterances": len(written),
        "hallucinated_words": sum(written),
        "deletion_bursts": sum("deletion-burst" in row for row in flags),
        "deletion_burst_words": BURST_WORDS,
    }


def _burst(row: Row, normaliser: str) -> int:
    return longest_deletion(row.reference, row.hypothesis, normaliser)
