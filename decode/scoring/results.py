"""The utterances of a scoring as JSON objects, for results.jsonl and for NeMo's manifest."""

from collections.abc import Iterable, Sequence
from typing import Any

from decode.scoring.reading import Row
from decode.scoring.summary import DURATION, Summary

OF_AN_UTTERANCE = ("speaker", "language", "voice", "silent", "audio", "audio_filepath")


def result_rows(summary: Summary, fields: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One row per utterance, with OF_AN_UTTERANCE and `fields` where known, so that it can be scored again; the errors
    are those under the first normaliser."""
    found = []
    names = dict.fromkeys([*OF_AN_UTTERANCE, *(name for name in fields if name != DURATION)])
    for row, score, flags in zip(summary.rows, summary.scores[summary.normaliser], summary.flags, strict=True):
        texts = {"key": row.key, "reference": row.reference, "hypothesis": row.hypothesis, "note": row.note}
        known = {name: row.fields[name] for name in names if row.value(name) and row.fields[name] is not False}
        counts = {"words": score.words, "errors": score.errors, "substitutions": score.substitutions}
        counts |= {"deletions": score.deletions, "insertions": score.insertions}
        measured = {"confidence": row.confidence, "seconds": row.seconds}
        best = {"alternatives": list(row.alternatives)} if row.alternatives else {}
        found.append(known | texts | measured | best | counts | {"flags": flags})
    return found


def nemo_rows(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows as written by NeMo's transcribe_speech.py: audio_filepath (the key if the path is not known), duration in
    seconds, text, pred_text; and the key."""
    return [
        {
            "audio_filepath": row.value("audio") or row.value("audio_filepath") or row.key,
            "duration": row.seconds,
            "text": row.reference,
            "pred_text": row.hypothesis,
            "key": row.key,
        }
        for row in rows
    ]
