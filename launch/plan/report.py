"""The plan in words, on one screen, and as one JSON object."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from typing import Any

from data_prep.figures import counted, in_units, table
from launch.plan.advice import Advice
from launch.plan.estimate import LAUNCH, Estimator, Hours, Row
from launch.plan.gpus import GIB
from model.sample_rate import SAMPLE_RATE
from train.recipe.config import Config
from train.recipe.kinds import decided

WIDTH, INDENT = 110, 13  # characters


@dataclass(frozen=True)
class Plan:
    """All that is reported."""

    recipe: str
    config: Config
    """With what it leaves to auto decided."""
    estimator: Estimator
    rows: list[Row]
    hours: Hours
    advice: Advice
    remarks: list[str]
    """What of the recipe does not suit its data or the ranks."""

    def assumptions(self) -> list[str]:
        """What the figures rest on."""
        cluster, kind = self.estimator.cluster, self.estimator.cluster.kind
        lines = [
            f"useful tokens reach {self.estimator.utilisation:g} of the {kind.teraflops:g} TFLOP/s of an {kind.name}: "
            "an assumption, no measurement (--utilisation; --probe measures)",
            f"PyTorch finds {cluster.bytes_each / GIB:.1f} GiB of {cluster.gigabytes:g} GB; a kernel takes "
            f"{1e6 * LAUNCH:g} us to launch; ZeRO-3 gathers at {cluster.link / 1e9:g} GB/s, behind the arithmetic",
            "hours leave out evaluation, saving and waiting for data; model.dtype auto is bfloat16",
        ]
        if cluster.assumed:
            lines.insert(0, f"GPUs of {cluster.gigabytes:g} GB are taken for {kind.name} (--gpu-type says another)")
        if self.config.batch.layout == "padded":
            lines.append("batch.layout padded takes more memory and time than the packed layout that is planned here")
        return lines

    def document(self) -> dict[str, Any]:
        """For a program; bytes, hours and audio-hours an hour."""
        work, shapes, cluster = self.estimator.work, self.estimator.shapes, self.estimator.cluster
        data = {name: value for name, value in vars(work).items() if name != "tokens_each"}
        frozen = {"encoder": shapes.encoder_parameters, "llm": shapes.llm_parameters}
        return {
            "recipe": self.recipe,
            "gpus": {**asdict(cluster), "ranks": cluster.ranks},
            "data": {**data, "hours": work.seconds / 3600},
            "parameters": {"trained": {"adapter": shapes.adapter_parameters}, "frozen": frozen},
            "batch": {name: getattr(self.config.batch, name) for name in ("tokens", "micro_batches")},
            "rows": [asdict(row) for row in self.rows],
            "least_tokens": work.longest_cost,
            "host_bytes": self.estimator.host_bytes,
            "time": asdict(self.hours),
            "cache": asdict(self.advice.cache),
            "assumptions": self.assumptions(),
            "advice": asdict(self.advice),
            "remarks": self.remarks,
        }

    def text(self) -> str:
        """For a terminal."""
        work, shapes, cluster = self.estimator.work, self.estimator.shapes, self.estimator.cluster
        a, c, h, batch = self.advice, self.advice.cache, self.hours, self.config.batch
        nodes = f", {cluster.nodes} nodes of {cluster.per_node}" if cluster.nodes > 1 else ""
        means = f"{work.seconds / work.utterances:.1f} s and {work.tokens / work.utterances:.0f} LLM tokens on average"
        items = [
            ("data", work.source),
            ("", f"{work.seconds / 3600:,.1f} h, {means}, the longest {work.longest_samples / SAMPLE_RATE:.1f} s"),
            ("parameters", f"{shapes.adapter_parameters:,} trained (adapter); frozen: {shapes.encoder_parameters:,} "
                           f"(encoder), {shapes.llm_parameters:,} (LLM)"),
            ("batch", f"{batch.micro_batches} micro-batches of {decided(batch.tokens):,} LLM tokens a step"),
            *(("recipe", remark) for remark in self.remarks),
            ("epoch", f"{counted(h.steps_per_epoch, 'step')}: {_clock(h.epoch_on_the_fly)} on the fly, "
                      f"{_clock(h.epoch_cached)} cached"),
            ("run", f"{h.epochs:.3g} epochs: {_clock(h.run_on_the_fly)} on the fly, {_clock(h.run_cached)} cached"),
            ("cache", f"{in_units(int(c.float16_bytes))} as float16, {in_units(int(c.int8_bytes))} as int8; GPUs never "
                      f"wait for it if a node reads {c.read_float16 / 1e9:.2g} GB/s (int8: {c.read_int8 / 1e9:.2g})"),
            ("host", f"up to {self.estimator.host_bytes / GIB:,.1f} GiB of a node's memory while weights are read"),
            ("advice", f"{a.deepspeed}: {a.why}" if a.deepspeed else a.why),
        ]  # fmt: skip
        if a.deepspeed:
            items += [
                ("", f"batch.tokens {a.tokens} and batch.micro_batches {a.micro_batches}"),
                ("", f"then {a.on_the_fly:,.0f} audio-hours an hour on the fly, {a.cached:,.0f} cached"),
            ]
        lines = [f"{self.recipe} on {cluster.ranks} x {cluster.kind.name} of {cluster.gigabytes:g} GB{nodes}", ""]
        lines += [*self._table(), "", *(line for item in items for line in _wrapped(*item))]
        lines += [f"  {command}" for command in a.commands]
        return "\n".join(
            [*lines, "", "assumed:", *(line for text in self.assumptions() for line in _wrapped("-", text))]
        )

    def _table(self) -> list[str]:
        """A line a setting, GiB of memory; no speed where the longest utterance does not fit."""
        rows = []
        for row in self.rows:
            parts = [f"{part / GIB:.2f}" for part in (*vars(row.memory).values(), row.total_bytes)]
            speeds = [f"{row.on_the_fly:,.0f}", f"{row.cached:,.0f}", row.limit]
            usable = row.largest_tokens >= self.estimator.work.longest_cost
            rows.append([row.name, *parts, "yes" if row.fits else "NO", f"{row.largest_tokens:,}", *speeds * usable])
        memory = ("frozen", "adapter", "buckets", "activations", "reserve", "total")
        head = ("GiB a GPU", *memory, "fits", "most tokens", "audio-h/h", "cached", "limited by")
        return table(rows, head)


def _wrapped(name: str, text: str) -> list[str]:
    return textwrap.wrap(
        f"{name:{INDENT}}{text}", WIDTH, subsequent_indent=" " * INDENT, break_long_words=False, break_on_hyphens=False
    )


def _clock(hours: float) -> str:
    """2 h 05 min, or 12 min, or 34.0 s."""
    if hours >= 1:
        minutes = round(60 * hours)
        return f"{minutes // 60:,} h {minutes % 60:02} min"
    return f"{60 * hours:.0f} min" if 60 * hours >= 2 else f"{3600 * hours:.1f} s"
