"""`python -m recipes.real_pair.curves METRICS ... --out FILE.svg`: the curves of one training, or of several that
follow each other, as one picture."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from decode.report.charts import Chart, curves_of

STYLE = """
text { font: 12px sans-serif; fill: #555; } .title { font-size: 13px; fill: #111; }
path { fill: none; } .grid { stroke: #ddd; stroke-width: .6; } .axis { stroke: #777; }
.line { stroke-width: 1.6; stroke-linejoin: round; stroke-linecap: round; } .points { stroke-width: 4.5; }
.train { stroke: #1f5fbf; } .dev { stroke: #d9660a; }
"""
GAP = 24  # between charts, in the units of the picture


def main(arguments: list[str] | None = None) -> int:
    """Reads metrics.jsonl files and writes the SVG."""
    parser = argparse.ArgumentParser(prog="python -m recipes.real_pair.curves", description="Draw a training's curves.")
    parser.add_argument("metrics", nargs="+", type=Path, help="metrics.jsonl, in the order of the trainings")
    parser.add_argument("--out", type=Path, required=True, help="the picture")
    args = parser.parse_args(arguments)
    args.out.write_text(picture(curves_of(one_after_another(args.metrics))))
    return 0


def one_after_another(paths: list[Path]) -> list[dict[str, Any]]:
    """The records of all files; steps go on counting from file to file."""
    records: list[dict[str, Any]] = []
    before = 0
    for path in paths:
        own = [json.loads(line) for line in path.read_text().splitlines()]
        records += [record | {"step": record["step"] + before} for record in own if "step" in record]
        before = max(record["step"] for record in records)
    return records


def picture(charts: list[Chart]) -> str:
    """An SVG with two charts a row."""
    wide, high = charts[0].width + GAP, charts[0].height + GAP
    width, height = 2 * wide, -(-len(charts) // 2) * high
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">']
    parts += [f'<style>{STYLE}</style><rect width="{width}" height="{height}" fill="#fff"/>']
    for number, chart in enumerate(charts):
        x, y = number % 2 * wide, number // 2 * high + GAP // 2
        parts.append(f'<g transform="translate({x} {y})">{"".join(drawn(chart))}</g>')
    return "\n".join([*parts, "</svg>\n"])


def drawn(chart: Chart) -> Iterator[str]:
    """The elements of one chart: title, scales, and a curve for each kind of record."""
    yield f'<text class="title" x="{chart.left}" y="{chart.top - 8}">{chart.title}</text>'
    for tick in chart.y_ticks:
        yield f'<path class="grid" d="M{chart.left} {tick.at}H{chart.right}"/>'
        yield f'<text text-anchor="end" x="{chart.left - 5}" y="{tick.at + 4}">{tick.label}</text>'
    for tick in chart.x_ticks:
        yield f'<path class="axis" d="M{tick.at} {chart.bottom}v4"/>'
        yield f'<text text-anchor="middle" x="{tick.at}" y="{chart.bottom + 16}">{tick.label}</text>'
    yield f'<path class="axis" d="M{chart.left} {chart.bottom}H{chart.right}"/>'
    for number, line in enumerate(chart.lines):
        yield f'<path class="line {line.name}" d="{line.path}"/>'
        yield f'<path class="line points {line.name}" d="{line.points}"/>'
        x = chart.right - 40 * (len(chart.lines) - number)
        yield f'<path class="line {line.name}" d="M{x - 4} {chart.top - 12}h12"/>'
        yield f'<text x="{x + 11}" y="{chart.top - 8}">{line.name}</text>'


if __name__ == "__main__":
    sys.exit(main())
