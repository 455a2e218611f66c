"""The coordinates of charts, in the units of an SVG's viewBox; report.html draws them.

Two kinds: WER against a number known for each utterance (bars of equally many utterances, and a dot per utterance), and
curves of a run over its steps."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decode.report.display import is_number, number, percent, visible
from decode.report.words import Aligned

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 40, 14, 20, 36  # margins
MOST_BINS, LEAST_IN_A_BIN = 10, 20
MOST_DOTS, MOST_POINTS, FEW_POINTS = 5000, 400, 40
LOG_FROM = 5  # ratio of highest to lowest value from which the scale is logarithmic

CURVES = (
    ("Loss, nats a token", "loss", 1),
    ("WER, %", "wer", 100),
    ("Token accuracy, %", "accuracy", 100),
    ("Audio gap, nats a token", "audio_gap", 1),
)

Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Bar:
    """One bin of utterances."""

    left: float
    width: float
    top: float
    says: str


@dataclass(frozen=True)
class Line:
    """One curve, as the `d` of a path; also its points if they are few."""

    name: str
    path: str
    points: str


@dataclass(frozen=True)
class Chart:
    """One chart, without colours."""

    title: str
    x_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    bars: Sequence[Bar] = ()
    dots: str = ""  # the `d` of a path of dots
    beyond: str = ""  # the `d` of triangles, for dots above the scale
    lines: Sequence[Line] = ()
    mark: Tick | None = None  # the step that was scored
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True)
class Axis:
    """Maps values from `low` to `high` to coordinates from `first` to `last`."""

    low: float
    high: float
    first: float
    last: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        part = (value - low) / (high - low) if high > low else 0.5
        return round(self.first + min(1.0, max(0.0, part)) * (self.last - self.first), 1)

    def ticks(self, label: Callable[[float], str] = lambda value: f"{value:,.10g}") -> list[Tick]:
        return [Tick(self(value), label(value)) for value in _round_values(self.low, self.high, self.log)]


def _round_values(low: float, high: float, log: bool) -> list[float]:
    """About six values in between, 1, 2 or 5 times a power of ten apart; on a log scale, of that form themselves."""
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
        inside = [value for value in values if low <= value <= high]
        return inside if len(inside) <= 7 else [value for value in inside if f"{value:e}"[0] == "1"]
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / 6))
    step = next(power * factor for factor in (1, 2, 5, 10) if (high - low) / (power * factor) <= 6)
    return [count * step for count in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def wer_against(name: str, unit: str, utterances: Sequence[Aligned], title: str) -> Chart | None:
    """WER against the field `name` of the rows; None if fewer than LEAST_IN_A_BIN utterances have words and a value
    above 0, or if all have the same value."""
    have = [u for u in utterances if u.words and is_number(u.row.get(name)) and u.row[name] > 0]
    have.sort(key=lambda utterance: utterance.row[name])
    if len(have) < LEAST_IN_A_BIN or have[0].row[name] == have[-1].row[name]:
        return None
    count = min(MOST_BINS, len(have) // LEAST_IN_A_BIN)
    bins = [have[len(have) * i // count : len(have) * (i + 1) // count] for i in range(count)]
    rates = [sum(u.errors for u in group) / sum(u.words for u in group) for group in bins]
    highest = max(u.errors / u.words for u in have)
    top = max(0.01, min(highest, 2 * max(rates)) or 0.1)
    low, high = have[0].row[name], have[-1].row[name]
    margin = 0.02 * (high - low)
    x = Axis(low - margin, high + margin, LEFT, WIDTH - RIGHT)
    y = Axis(0, top, HEIGHT - BOTTOM, TOP)
    edges = [low, *((a[-1].row[name] + b[0].row[name]) / 2 for a, b in zip(bins, bins[1:], strict=False)), high]
    bars = [
        Bar(x(a), max(1.0, round(x(b) - x(a), 1)), y(rate), _says(a, b, unit, rate, group))
        for a, b, rate, group in zip(edges, edges[1:], rates, bins, strict=False)
    ]
    dots = [(x(u.row[name]), u.errors / u.words) for u in have[:: math.ceil(len(have) / MOST_DOTS)]]
    inside = "".join(f"M{at:g} {y(rate):g}h0" for at, rate in dots if rate <= top)
    beyond = "".join(f"M{at - 2.5:g} {TOP}l2.5-5l2.5 5z" for at, rate in dots if rate > top)
    y_ticks = y.ticks(lambda rate: f"{100 * rate:.10g} %")
    return Chart(title, unit, x.ticks(), y_ticks, bars, inside, beyond)


def _says(low: float, high: float, unit: str, rate: float, group: Sequence[Aligned]) -> str:
    words = sum(utterance.words for utterance in group)
    where = f"{number(float(low))} to {number(float(high))} {unit}"
    return f"{where}: WER {percent(rate)} %, {len(group):,} utterances, {words:,} words"


def curves_of(records: Sequence[Mapping[str, Any]], scored: Any = None) -> list[Chart]:
    """Charts of those of loss, WER and token accuracy that a run's metrics.jsonl has, over its steps. `scored` is the
    step to mark."""
    steps = [record["step"] for record in records if is_number(record.get("step"))]
    x = Axis(min(0, 0, *steps), max(1, 1, *steps), LEFT, WIDTH - RIGHT)
    charts = []
    for title, field, scale in CURVES:
        series: dict[str, list[Point]] = {}
        for record in records:
            step, value = record.get("step"), record.get(field)
            if is_number(step) and is_number(value):
                series.setdefault(str(record.get("kind", "train")), []).append((step, scale * value))
        if series:
            charts.append(_curves(title, series, x, scored))
    return charts


def _curves(title: str, series: Mapping[str, Sequence[Point]], x: Axis, scored: Any) -> Chart:
    values = [value for points in series.values() for _, value in points]
    low, high = min(values), max(values)
    log = low > 0 and high > LOG_FROM * low
    room = 0 if log else 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    bottom = low - room if low < 0 else max(0.0, low - room)
    y = Axis(bottom, high + room, HEIGHT - BOTTOM, TOP, log)
    lines = [_line(name, [(x(a), y(b)) for a, b in thinned(points)]) for name, points in sorted(series.items())]
    mark = Tick(x(scored), f"step {scored:,} scored") if is_number(scored) and x.low <= scored <= x.high else None
    return Chart(title, "step", x.ticks(), y.ticks(), lines=lines, mark=mark)


def _line(name: str, points: Sequence[Point]) -> Line:
    places = [f"{x:g} {y:g}" for x, y in points]
    dots = "".join(f"M{place}h0" for place in places) if len(places) <= FEW_POINTS else ""
    return Line(visible(name), "M" + "L".join(places), dots)


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` points in order of x, each the mean of equally many neighbours."""
    ordered, every = sorted(points), math.ceil(len(points) / most)
    groups = [ordered[first : first + every] for first in range(0, len(ordered), every)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
