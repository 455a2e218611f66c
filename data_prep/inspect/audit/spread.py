"""How a set is spread over lengths, rates and levels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.inspect.audit.measures import Measured

BARS = 40
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True)
class Spread:
    """A histogram of BARS bars from `low` to `high`; what lies outside is counted in the first and the last."""

    name: str
    unit: str
    low: float
    high: float
    counts: tuple[int, ...]
    quantiles: tuple[float, ...]
    """At QUANTILES."""


def spreads(measured: Measured) -> tuple[Spread, ...]:
    """Of whatever was measured."""
    rows = measured.rows
    rate = rows["characters"] / np.maximum(rows["seconds"], 1e-3)
    found = [
        _spread("length", "s", 0, 40, rows["seconds"]),
        _spread("rate", "characters a second", 0, 40, rate),
        _spread("level of loud frames", "dBFS", -60, 0, rows["level"]),
        _spread("silence", "% of frames", 0, 100, 100 * rows["silence"]),
    ]
    return tuple(spread for spread in found if spread is not None)


def _spread(name: str, unit: str, low: float, high: float, values: np.ndarray) -> Spread | None:
    values = values[~np.isnan(values)].astype(float)
    if not len(values):
        return None
    counts, _ = np.histogram(np.clip(values, low, high), BARS, (low, high))
    quantiles = tuple(round(float(q), 3) for q in np.quantile(values, QUANTILES))
    return Spread(name, unit, low, high, tuple(counts.tolist()), quantiles)
