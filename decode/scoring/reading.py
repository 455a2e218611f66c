"""Reads references and hypotheses: of an earlier scoring, or from JSON lines, NIST trn or Kaldi text files.

| format | if | a line |
|---|---|---|
| trn | its name ends in .trn, or its first line in `(ID)` | `words (ID)`; `;;` begins a comment |
| JSON lines | its first line begins with `{`, or its name ends in .json, .jsonl or .gz | "key", and "reference" or
"text" |
| text | otherwise | `KEY words`, as in Kaldi |

The text of a hypothesis in JSON is "hypothesis", "pred_text" (as in NeMo) or "text"."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.durable import strict_json
from data_prep.importers.parsing.files import first_line, read_keyed, read_lines
from data_prep.utterance import is_seconds, read_rows
from decode.scoring import RESULTS, SCORE
from model.errors import UserError, counted

TRN_LINE = re.compile(r"(?P<text>.*)\((?P<id>[^\s()]+)\)")
ALTERNATIVES = re.compile(r"\{[^{}]* / [^{}]*\}")  # "{ GREY / GRAY }", of which sclite counts the better match
SPEAKER_OF_AN_ID = re.compile(r"([^-_]+)[-_]")  # as sclite's -i spu_id
OF_THE_TEXTS = {
    "key",
    "text",
    "reference",
    "hypothesis",
    "pred_text",
    "note",
    "confidence",
    "seconds",
    "duration",
    "alternatives",
}
COUNTED = {"words", "errors", "substitutions", "deletions", "insertions", "flags"}  # in results.jsonl
KINDS = {"adapter": str, "shards": str, "decoding": dict}  # of score.json, what is used when it is read again
REFERENCE, HYPOTHESIS = ("reference", "text"), ("hypothesis", "pred_text", "text")


@dataclass(frozen=True)
class Row:
    """One utterance to score."""

    key: str
    reference: str
    hypothesis: str
    note: str = ""  # as in decode.dataset.Hypothesis
    confidence: float | None = None  # 0 to 1; None if not known
    seconds: float | None = None  # of audio; None if not known
    fields: Mapping[str, Any] = field(default_factory=dict)  # speaker, language, voice and other metadata
    alternatives: Sequence[Mapping[str, Any]] = ()  # n-best list: {"text", "score"}, best first

    def value(self, name: str) -> str:
        """A field as text; empty if not known."""
        value = self.fields.get(name)
        return "" if value is None else str(value)


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata in one flat dict: the corpus's own fields in `meta`, overridden by those of the row itself."""
    inner = row.get("meta")
    return {**(inner if isinstance(inner, dict) else {}), **{k: v for k, v in row.items() if k != "meta"}}


def known(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of flat metadata that utterances can be grouped by."""
    return {name: value for name, value in fields.items() if name not in OF_THE_TEXTS | COUNTED}


def seconds_of(fields: Mapping[str, Any]) -> float | None:
    for value in (fields.get("seconds"), fields.get("duration")):
        if value is not None and is_seconds(value) and value >= 0:
            return float(value)
    return None


def read_pairs(references: Path, hypotheses: Path) -> list[Row]:
    """The utterances of two files in the order of the references; a results.jsonl may be both. UserError unless both
    have the same keys, each once, with text."""
    truth, answers = _texts(references, REFERENCE), _texts(hypotheses, HYPOTHESIS)
    require_same_keys(truth, answers, str(references), str(hypotheses))
    if not truth:
        raise UserError(f"{references} holds no utterances; there is nothing to score")
    return [
        Row(key, text, answers[key][0], seconds=seconds_of(fields), fields=known(fields), **_said_of(answers[key][1]))
        for key, (text, fields) in truth.items()
    ]


def read_scoring(folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """The rows of an earlier scoring, and its score.json. UserError for a folder without a complete one."""
    path = folder / RESULTS
    try:
        score = strict_json((folder / SCORE).read_bytes())
        if not isinstance(score, dict):
            raise ValueError("it is not a JSON object")
        for name, kind in KINDS.items():
            if not isinstance(score.get(name), kind | None):
                raise ValueError(f"its {name} is {str(score[name])[:40]!r}")
    except OSError as error:
        reason = f"{SCORE}: {error.strerror}"
        raise UserError(f"{folder} holds no scoring ({reason}); give a folder that `score --out` wrote") from None
    except ValueError as error:
        raise UserError(f"{folder / SCORE} is no score.json: {' '.join(str(error).split())}; score again") from None
    return read_pairs(path, path), score


def require_same_keys(some: Iterable[str], others: Iterable[str], name: str, other: str) -> None:
    """UserError, naming the first keys, if one of two sets of utterances has keys that the other lacks."""
    for keys, rest, here, there in (some, others, name, other), (others, some, other, name):
        there_too = set(rest)
        if missing := [key for key in keys if key not in there_too]:
            names = ", ".join(missing[:3]) + " ..." * (len(missing) > 3)
            where = f"{counted(len(missing), 'utterance')} of {here} missing in {there}"
            raise UserError(f"{where}: {names}; give files of the same data")


def _said_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The other fields of a hypothesis: note, confidence, n-best list."""
    note, confidence, alternatives = (fields.get(name) for name in ("note", "confidence", "alternatives"))
    sure = isinstance(confidence, int | float) and not isinstance(confidence, bool)
    return {
        "note": note if isinstance(note, str) else "",
        "confidence": confidence if sure else None,
        "alternatives": alternatives if isinstance(alternatives, list) else (),
    }


def _texts(path: Path, names: tuple[str, ...]) -> dict[str, tuple[str, dict[str, Any]]]:
    """{key: (text, metadata)}."""
    first = first_line(path)
    suffixes = {suffix.lower() for suffix in path.suffixes[-2:]}
    if ".trn" in suffixes or TRN_LINE.fullmatch(first):
        return dict(_trn(path))
    if first.startswith("{") or not first or suffixes & {".json", ".jsonl", ".gz"}:
        return dict(_json_lines(path, names))
    return {key: (entry.value, {}) for key, entry in read_keyed(path).items()}


def _json_lines(path: Path, names: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, dict[str, Any]]]]:
    seen: set[str] = set()
    for place, row in read_rows(path):
        key, text = row.get("key"), next((row[name] for name in names if name in row), None)
        if not isinstance(key, str) or not isinstance(text, str):
            raise UserError(f'{place}: a line needs "key" and "{names[0]}" (or "text"), both strings')
        _require_new(place, key, seen)
        yield key, (text, flat(row))


def _trn(path: Path) -> Iterator[tuple[str, tuple[str, dict[str, Any]]]]:
    seen: set[str] = set()
    for place, line in read_lines(path):
        if line.startswith(";;"):
            continue
        found = TRN_LINE.fullmatch(line)
        if found is None:
            raise UserError(f"{place}: {line[:60]!r} does not end in (ID), as a line of a trn file does")
        if ALTERNATIVES.search(found["text"]):
            raise UserError(f"{place}: alternatives {{ a / b }} are not supported; choose one, or use sclite")
        speaker = SPEAKER_OF_AN_ID.match(found["id"])
        _require_new(place, found["id"], seen)
        yield found["id"], (found["text"].strip(), {"speaker": speaker[1]} if speaker else {})


def _require_new(place: str, key: str, seen: set[str]) -> None:
    if key in seen:
        raise UserError(f"{place}: key {key!r} occurs twice; give one line per utterance")
    seen.add(key)
