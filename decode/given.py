"""References and hypotheses from JSONL files, matched by key, none missing on either side."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.utterance import read_rows
from model.errors import UserError, counted


@dataclass(frozen=True)
class Pair:
    """One utterance of both files."""

    key: str
    reference: str
    hypothesis: str
    fields: dict[str, Any]  # the reference file's whole row


def read_pairs(references: Path, hypotheses: Path) -> list[Pair]:
    """In the order of the references. UserError unless both files hold the same keys, each once, with text.

    A reference is in "reference", else "text"; a hypothesis in "hypothesis", else "text": our hypotheses.jsonl can be
    both files.
    """
    truth, answers = _texts(references, "reference"), _texts(hypotheses, "hypothesis")
    for keys, others, path, other in (truth, answers, references, hypotheses), (answers, truth, hypotheses, references):
        missing = [key for key in keys if key not in others]
        if missing:
            names = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
            where = f"{counted(len(missing), 'utterance')} of {path} missing in {other}"
            raise UserError(f"{where}: {names}; give files of the same data")
    if not truth:
        raise UserError(f"{references} holds no utterances; there is nothing to score")
    return [Pair(key, text, answers[key][0], fields) for key, (text, fields) in truth.items()]


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
