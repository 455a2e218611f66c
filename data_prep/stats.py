"""What is in a dataset directory, on one screen."""

from __future__ import annotations

import numpy as np

from data_prep.index import ShardIndex

QUANTILES = {"shortest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "longest": 1.0}


def table(index: ShardIndex) -> str:
    """Hours, utterances, quantiles of length, text lengths, what stayed out: `name  value` lines."""
    rows = [
        ("kind", index.kind),
        ("utterances", f"{len(index):,}"),
        ("hours", f"{index.seconds / 3600:,.2f}"),
        ("shards", f"{len(index.shards):,}"),
        ("size", f"{sum(shard.bytes for shard in index.shards) / 1e6:,.1f} MB"),
    ]
    seconds = index.samples / 16000
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
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _rate(index: ShardIndex) -> float:
    return float(index.characters.sum()) / max(index.seconds, 1e-9)


def _short(value: object) -> str:
    return str(value)[:12]
