"""What is in a dataset directory, on one screen."""

from dataclasses import dataclass

import numpy as np

from data_prep import figures
from data_prep.durable import encodable
from data_prep.figures import in_hours
from data_prep.rework.subset import fields_of
from data_prep.shards.index import ShardIndex
from data_prep.text import printable
from model.errors import counted
from model.sample_rate import SAMPLE_RATE

TOP = 20  # names of a breakdown
SHOWN = 10  # of these, on a screen
QUANTILES = {"shortest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "longest": 1.0}


@dataclass(frozen=True)
class NameTotal:
    name: str
    utterances: int
    seconds: float


@dataclass(frozen=True)
class Breakdown:
    names: int  # that are not empty
    nameless: int  # utterances
    top: tuple[NameTotal, ...]  # those with most hours, at most TOP


def table(index: ShardIndex) -> str:
    """Hours, utterances, quantiles of length, text lengths, what stayed out: `name  value` lines."""
    seconds = index.samples / SAMPLE_RATE
    rows: list[tuple[str, object]] = [
        ("kind", index.kind),
        ("utterances", f"{len(index):,}"),
        ("length, all", in_hours(index.seconds)),
        ("shards", f"{len(index.shards):,}"),
        ("size", f"{sum(shard.bytes for shard in index.shards) / 1e6:,.1f} MB"),
    ]
    if len(index):
        rate = float(index.characters.sum()) / max(index.seconds, 1e-9)
        rows += [(f"length, {name}", f"{np.quantile(seconds, q):.2f} s") for name, q in QUANTILES.items()]
        rows.append(("characters", f"{index.characters.mean():.1f} an utterance, {rate:.1f} a second"))
    if index.kind == "features":
        encoder = ", ".join(f"{name} {str(value)[:12]}" for name, value in sorted(index.fingerprint.items()))
        rows.append(("frames", f"{int(index.frames.sum()):,} of {index.fingerprint.get('dim')} numbers"))
        rows.append(("encoder", encoder))
    for name in ("bad", "dropped"):
        counts = index.totals.get(name) or {}
        rows += [(f"{name}, {reason}", f"{count:,}") for reason, count in sorted(counts.items())]
    return "\n".join(figures.table([[printable(str(cell)) for cell in row] for row in rows], left=(0, 1)))


def table_by(index: ShardIndex, name: str) -> str:
    """Hours of each language or speaker, the ten with most: read from the metadata in the shards."""
    known: dict[str, int] = {}
    ids = np.array([known.setdefault(value, len(known)) for value in fields_of(index, [name])[name]], np.int64)
    hours = breakdown(ids, index.samples / SAMPLE_RATE, list(known))
    rows = [
        (printable(total.name)[:40], in_hours(total.seconds), f"{total.utterances:,}") for total in hours.top[:SHOWN]
    ]
    rest = [f"{hours.names - len(rows):,} more"] if hours.names > len(rows) else []
    rest += [f"{counted(hours.nameless, 'utterance')} without a {name}"] if hours.nameless else []
    return "\n".join([*figures.table(rows, head=(name, "audio", "utterances")), *([", ".join(rest)] if rest else [])])


def breakdown(ids: np.ndarray, seconds: np.ndarray, names: list[str]) -> Breakdown:
    """`ids` [N] point into `names`."""
    counts = np.bincount(ids, minlength=len(names)).tolist()
    sums = np.bincount(ids, seconds, minlength=len(names))
    order = [place for place in np.argsort(-sums, kind="stable").tolist() if names[place]]
    top = [NameTotal(encodable(names[place]), counts[place], round(float(sums[place]), 4)) for place in order[:TOP]]
    nameless = sum(count for count, name in zip(counts, names, strict=False) if not name)
    return Breakdown(len(order), nameless, tuple(top))
