"""What is in a dataset directory, on one screen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.durable import encodable
from data_prep.figures import counted, in_hours
from data_prep.rework.subset import fields_of
from data_prep.shards.index import ShardIndex
from data_prep.text import printable
from model.sample_rate import SAMPLE_RATE

TOP = 20  # names of a breakdown
SHOWN = 10  # of these, on a screen
QUANTILES = {"shortest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "longest": 1.0}


@dataclass(frozen=True)
class Share:
    """What one name has."""

    name: str
    utterances: int
    seconds: float


@dataclass(frozen=True)
class Breakdown:
    """Hours by name."""

    names: int
    """That are not empty."""
    nameless: int
    """Utterances."""
    top: tuple[Share, ...]
    """Those with most hours, at most TOP."""


def table(index: ShardIndex) -> str:
    """Hours, utterances, quantiles of length, text lengths, what stayed out: `name  value` lines."""
    rows = [
        ("kind", index.kind),
        ("utterances", f"{len(index):,}"),
        ("length, all", in_hours(index.seconds)),
        ("shards", f"{len(index.shards):,}"),
        ("size", f"{sum(shard.bytes for shard in index.shards) / 1e6:,.1f} MB"),
    ]
    seconds = index.samples / SAMPLE_RATE
    if len(index):
        rows += [(f"length, {name}", f"{np.quantile(seconds, q):.2f} s") for name, q in QUANTILES.items()]
        rows.append(("characters", f"{index.characters.mean():.1f} an utterance, {_rate(index):.1f} a second"))
    if index.kind == "features":
        rows.append(("frames", f"{int(index.frames.sum()):,} of {index.fingerprint.get('dim')} numbers"))
        rows.append(("encoder", ", ".join(f"{k} {_short(v)}" for k, v in sorted(index.fingerprint.items()))))
    for name in ("bad", "dropped"):
        counts = index.totals.get(name) or {}
        rows += [(f"{name}, {reason}", f"{count:,}") for reason, count in sorted(counts.items())]
    width = max(len(name) for name, _ in rows)
    return "\n".join(printable(f"{name:<{width}}  {value}") for name, value in rows)


def table_by(index: ShardIndex, name: str) -> str:
    """Hours of each language or speaker, the ten with most: read from the metadata in the shards."""
    known: dict[str, int] = {}
    ids = np.array([known.setdefault(value, len(known)) for value in fields_of(index, [name])[name]], np.int64)
    found = breakdown(ids, index.samples / SAMPLE_RATE, list(known))
    return "\n".join(breakdown_lines(name, found))


def breakdown(ids: np.ndarray, seconds: np.ndarray, names: list[str]) -> Breakdown:
    """`ids` [N] point into `names`."""
    counts = np.bincount(ids, minlength=len(names))
    sums = np.bincount(ids, seconds, minlength=len(names))
    order = [place for place in np.argsort(-sums, kind="stable").tolist() if names[place]]
    top = tuple(
        Share(encodable(names[place]), int(counts[place]), round(float(sums[place]), 4)) for place in order[:TOP]
    )
    nameless = sum(int(counts[place]) for place, name in enumerate(names) if not name)
    return Breakdown(len(order), nameless, top)


def breakdown_lines(name: str, found: Breakdown) -> list[str]:
    """`NAME  hours  utterances` lines under a heading, and what else there is."""
    shown = [(printable(share.name)[:40], share.seconds, share.utterances) for share in found.top[:SHOWN]]
    width = max([len(name), *(len(label) for label, _, _ in shown)])
    lines = [f"{name:<{width}}        audio  utterances"]
    lines += [f"{label:<{width}}  {in_hours(seconds):>11}  {count:>10,}" for label, seconds, count in shown]
    rest = [f"{found.names - len(shown):,} more"] if found.names > len(shown) else []
    rest += [f"{counted(found.nameless, 'utterance')} without a {name}"] if found.nameless else []
    return lines + ([", ".join(rest)] if rest else [])


def _rate(index: ShardIndex) -> float:
    return float(index.characters.sum()) / max(index.seconds, 1e-9)


def _short(value: object) -> str:
    return str(value)[:12]
