"""Which utterances of a dataset directory are kept: by key, by length, by fields of their metadata."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.build.prepare import require_seconds
from data_prep.durable import strict_json
from data_prep.progress import Progress
from data_prep.refusals import Note
from data_prep.shards.index import ShardIndex
from data_prep.shards.tar import read_meta
from model.errors import UserError, closest, counted
from model.sample_rate import SAMPLE_RATE

FIELDS = ("language", "speaker", "task")  # of the metadata, beside the corpus's own in `meta`
NAMED, LISTED = 3, 8  # keys and values that a message shows


@dataclass(frozen=True)
class Subset:
    """Conditions for an utterance to be kept. The default keeps all."""

    keys: frozenset[str] | None = None  # only these
    drop_keys: frozenset[str] = frozenset()  # not these
    min_seconds: float = 0.0
    max_seconds: float = float("inf")
    where: tuple[tuple[str, str], ...] = ()  # (field, value) of the metadata, all of them

    def __post_init__(self) -> None:
        require_seconds(self.min_seconds, self.max_seconds)


def read_keys(path: Path) -> frozenset[str]:
    """The keys in a file: one a line, or the field `key` of one JSON object a line, as quarantine.jsonl has it."""
    keys = set[str]()
    try:
        for line in filter(None, map(bytes.strip, path.read_bytes().splitlines())):
            key = strict_json(line)["key"] if line.startswith(b"{") else line.decode("utf-8-sig")
            if not isinstance(key, str) or not key.isprintable():
                raise ValueError
            keys.add(key)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a file of one key a line") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is no list of keys; a line is a key, or a JSON object with the field key") from None
    if not keys:
        raise UserError(f"{path} names no key; give a file of one key a line")
    return frozenset(keys)


def parse_where(conditions: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """["speaker=19", ...] to ((speaker, 19), ...)."""
    for condition in conditions:
        if not condition.partition("=")[0] or "=" not in condition:
            raise UserError(f"{condition!r} is no condition; write it as field=value, say speaker=19")
    return tuple((name, value) for name, _, value in (condition.partition("=") for condition in conditions))


def choose(index: ShardIndex, subset: Subset) -> tuple[np.ndarray, list[Note]]:
    """The numbers of the utterances that are kept, int64, in order, and why each of the others is not. UserError if
    none is kept. Keys asked for that are not there are counted on stderr."""
    wanted = subset.drop_keys | (subset.keys or frozenset())
    unknown = sorted(wanted.difference(index.key))
    if unknown:
        first = ", ".join(unknown[:NAMED]) + (" ..." if len(unknown) > NAMED else "")
        are = f"asked for {'is' if len(unknown) == 1 else 'are'} not there"
        print(f"warning: {len(unknown):,} of {counted(len(wanted), 'key')} {are}: {first}", file=sys.stderr)
    columns = fields_of(index, [name for name, _ in subset.where]) if subset.where else {}
    for name, value in subset.where:
        if value not in columns[name]:
            raise UserError(f"no utterance has {name} {value!r}; {_known(value, set(columns[name]))}")
    kept, notes = [], []
    for i, key in enumerate(index.key):
        labels = {name: column[i] for name, column in columns.items()}
        reason, message = _fault(key, int(index.samples[i]) / SAMPLE_RATE, labels, subset)
        if reason:
            notes.append({"key": key, "reason": reason, "message": message})
        else:
            kept.append(i)
    if not kept:
        raise UserError(f"none of {counted(len(index), 'utterance')} is what was asked for; ask for something else")
    return np.array(kept, np.int64), notes


def _fault(key: str, seconds: float, labels: dict[str, str], subset: Subset) -> tuple[str, str]:
    """(reason, message) of an utterance that is not kept; empty for one that is."""
    if subset.keys is not None and key not in subset.keys:
        return "not-in-keys", "--keys does not name it"
    if key in subset.drop_keys:
        return "in-drop-keys", "--drop-keys names it"
    if seconds < subset.min_seconds:
        return "below-min-seconds", f"{seconds:.2f} s, --min-seconds is {subset.min_seconds:g}"
    if seconds > subset.max_seconds:
        return "above-max-seconds", f"{seconds:,.2f} s, --max-seconds is {subset.max_seconds:g}"
    for name, value in subset.where:
        if labels[name] != value:
            return f"other-{name}", f"{name} is {labels[name]!r}, --where asks for {value!r}"
    return "", ""


def fields_of(index: ShardIndex, names: Sequence[str]) -> dict[str, list[str]]:
    """These fields of each utterance's metadata as text, "" for a missing one; read from the tars. UserError for a
    field that no utterance has."""
    columns: dict[str, list[str]] = {name: [] for name in names}
    known: set[str] = set(FIELDS)
    same: dict[str, str] = {}  # values are few: each is kept once
    with Progress(len(index), label="metadata") as progress:
        for i in range(len(index)):
            meta = read_meta(index, i)
            known.update(meta["meta"])
            for name, column in columns.items():
                value = meta.get(name) if name in FIELDS else meta["meta"].get(name)
                text = "" if value is None else str(value)
                column.append(same.setdefault(text, text))
            progress.advance()
    for name in names:
        if name not in known:
            raise UserError(f"no utterance has a field {name!r}; {_known(name, known)}")
    return columns


def _known(given: str, known: set[str]) -> str:
    """The nearest known name, or the first of all."""
    near = closest(given, known)
    listed = ", ".join(sorted(known)[:LISTED]) + (" ..." if len(known) > LISTED else "")
    return f"did you mean {near!r}?" if near else f"known: {listed}"
