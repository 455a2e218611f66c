"""The plan in words, on one screen; and the same as one JSON object."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from data_prep.figures import counted, in_units
from launch.plan.advice import Advice
from launch.plan.estimate import Cache, Estimate, Row, Time
from launch.plan.gpus import GIB, Cluster
from launch.plan.lengths import Lengths, Work
from launch.plan.shapes import Shapes
from model.sample_rate import SAMPLE_RATE

COLUMNS = {
    "frozen": "frozen",
    "adapter": "adapter",
    "buckets": "buckets",
    "activations": "activat.",
    "reserve": "reserve",
}
WIDTH = 110  # characters of a line


def text(
    title: str,
    cluster: Cluster,
    shapes: Shapes,
    lengths: Lengths,
    work: Work,
    found: Estimate,
    advice: Advice,
    remarks: Sequence[str],
) -> str:
    """All of it."""
    nodes = f", {cluster.nodes} nodes of {cluster.per_node}" if cluster.nodes > 1 else ""
    means = f"{work.seconds / work.utterances:.1f} s and {work.tokens / work.utterances:.0f} LLM tokens on average"
    dtype = str(shapes.dtype).removeprefix("torch.")
    lines = [
        f"{title} on {cluster.ranks} x {cluster.kind.name} of {cluster.gigabytes:g} GB{nodes}",
        "",
        *_item("data", lengths.source),
        *_item("", f"{lengths.hours:,.1f} h, {means}, the longest {work.longest_samples / SAMPLE_RATE:.1f} s"),
        *_item("parameters", f"{shapes.adapter_parameters:,} trained: the adapter"),
        *_item("", f"{shapes.encoder.parameters:,} frozen in {dtype}: the encoder"),
        *_item("", f"{shapes.llm.parameters:,} frozen in {dtype}: the LLM"),
        *["", *_table(found)],
        *[
            "",
            *_share(found),
            *_cache(advice.cache or found.cache),
            *(_times(found) if advice.deepspeed else []),
            *(line for remark in remarks for line in _item("recipe", remark)),
            *_host(found, cluster),
        ],
        *["", *_advice(advice, found)],
        *["", "assumed:", *(line for assumed in found.assumptions for line in _item("-", assumed, 2))],
    ]
    return "\n".join(lines)


def _item(name: str, what: str, indent: int = 13) -> list[str]:
    """A name and what is said of it, in lines of bounded width."""
    return textwrap.wrap(
        f"{name:{indent}}{what}", WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )


def _table(found: Estimate) -> list[str]:
    """A line a setting, memory in GiB; no speed where the longest utterance does not fit."""
    head = f"{'':13}" + "".join(f"{name:>9}" for name in (*COLUMNS.values(), "total"))
    lines = [
        f"GiB a GPU at batch.tokens {found.step.tokens:,}; the largest batch.tokens that fits; audio-hours an hour",
        f"{head}  fits   largest  on the fly   cached",
    ]
    for row in found.rows:
        figures = [*(getattr(row.memory, name) for name in COLUMNS), row.total_bytes]
        line = f"{row.name:13}" + "".join(f"{figure / GIB:9.2f}" for figure in figures)
        line += f"  {'yes' if row.fits else 'NO':>4}  {row.largest_tokens:8,}"
        if row.largest_tokens >= found.least_tokens:
            line += f"  {row.on_the_fly:10,.0f}  {row.cached:7,.0f}{_slowed(row)}"
        lines.append(line)
    return lines


def _slowed(row: Row) -> str:
    return "" if row.limit == "arithmetic" else f"  waits for {row.limit}"


def _share(found: Estimate) -> list[str]:
    step = found.step
    line = (
        f"{step.micro_batches} micro-batches of {step.tokens:,} tokens on {step.ranks} rank{'s' * (step.ranks > 1)}: "
    )
    if not step.idle:
        return _item("step", f"{line}{step.micro_batches // step.ranks} each, none is idle")
    first, last = step.idle[0], step.idle[-1]
    named, verb = (f"ranks {first} to {last}", "have") if last > first else (f"rank {first}", "has")
    what = "nothing to do in any step" if step.micro_batches < step.ranks else "one less than the others"
    return _item("step", f"{line}{named} {verb} {what}; {step.busy:.0%} of the ranks' time is used")


def _cache(c: Cache) -> list[str]:
    least, most = f"{c.break_even_float16 / 1e9:.2g}", f"{c.enough_float16 / 1e9:.2g}"
    int8 = f"int8: {c.break_even_int8 / 1e9:.2g} and {c.enough_int8 / 1e9:.2g}"
    return _item(
        "cache",
        f"{in_units(int(c.float16_bytes))} as float16, {in_units(int(c.int8_bytes))} as int8; slower than on the fly "
        f"where a node reads less than {least} GB/s, never waited for from {most} GB/s on ({int8})",
    )


def _times(found: Estimate) -> list[str]:
    t = found.time
    took = f"{hours(t.epoch_on_the_fly)} on the fly, {hours(t.epoch_cached)} cached"
    epoch = f"as the recipe stands, {counted(t.steps_per_epoch, 'step')}: {took}"
    return _item("epoch", epoch)


def _run(time: Time, found: Estimate) -> str:
    cached = f", {hours(time.run_cached)} with the cache" if found.cache.possible else ""
    return f"the run of {time.epochs:.3g} epochs takes {hours(time.run_on_the_fly)} on the fly{cached}"


def _host(found: Estimate, cluster: Cluster) -> list[str]:
    taken = found.rows[0].memory.host / GIB
    if taken < 1:
        return []
    each = f"{cluster.per_node} ranks, each the whole LLM" if cluster.per_node > 1 else "the whole LLM"
    return _item("host", f"up to {taken:,.1f} GiB of a node's memory while weights are read: {each}")


def hours(value: float) -> str:
    """2 h 05 min, or 12 min, or 34 s."""
    if value >= 1:
        minutes = round(60 * value)
        return f"{minutes // 60:,} h {minutes % 60:02} min"
    return f"{60 * value:.0f} min" if 60 * value >= 2 else f"{3600 * value:.1f} s"


def _advice(advice: Advice, found: Estimate) -> list[str]:
    if advice.deepspeed is None or advice.time is None:
        return _item("advice", advice.why)
    batch = f"batch.tokens {advice.tokens} and batch.micro_batches {advice.micro_batches}: {advice.batch_why}"
    return [
        *_item("advice", f"{advice.deepspeed}: {advice.why}"),
        *_item("", batch),
        *_item(
            "",
            f"then {advice.on_the_fly:,.0f} audio-hours an hour on the fly, {advice.cached:,.0f} cached; "
            f"{_run(advice.time, found)}",
        ),
        *_item("caching", advice.caching),
        *(f"  {command}" for command in advice.commands),
    ]


def document(
    recipe: str,
    cluster: Cluster,
    shapes: Shapes,
    lengths: Lengths,
    work: Work,
    found: Estimate,
    advice: Advice,
    remarks: Sequence[str],
) -> dict[str, Any]:
    """The same for a program; bytes, hours and audio-hours an hour."""
    sums = {name: value for name, value in asdict(work).items() if name not in ("tokens_each", "times")}
    parameters = {"encoder": shapes.encoder.parameters, "llm": shapes.llm.parameters}
    return {
        "recipe": recipe,
        "gpus": {**asdict(cluster), "ranks": cluster.ranks},
        "data": {"source": lengths.source, "cached": lengths.cached, "hours": lengths.hours, **_plain(sums)},
        "parameters": {"trained": {"adapter": shapes.adapter_parameters}, "frozen": parameters},
        **_plain(asdict(found)),
        "advice": asdict(advice),
        "remarks": list(remarks),
    }


def _plain(values: Any) -> Any:
    """numpy's numbers as JSON has them."""
    if isinstance(values, dict):
        return {name: _plain(value) for name, value in values.items()}
    if isinstance(values, Sequence) and not isinstance(values, str):
        return [_plain(value) for value in values]
    return values.item() if isinstance(values, np.generic) else values
