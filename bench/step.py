"""Goals 1, 2 and 3: the CPU seconds of training on the same utterances, ours against two other loops, in one process.

Repeats are interleaved; a figure is the median of the ratios of CPU time within each repeat. Every way must give the
answers the same negative log likelihood as the first: to 1e-4 a token where all is float32, to 3e-3 with bfloat16
weights or cached (bfloat16) frames. A difference beyond that ends the measurement.

What a pass is: bench/ways.py. Models and lengths: bench/toys.py, bench/lengths.py. The loops compared with:
bench/loops.py.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from bench.goal import Goal
from bench.lengths import Lengths, in_the_wild, librispeech_like, print_goals, read_lengths
from bench.loops import one_by_one, slam_llm
from bench.ways import CLOSE, EXACT, Bench, measure, only_batching

REPEATS = 3
SLAM, PLAIN = "SLAM-LLM style", "one by one"


def run(scale: float = 1.0, lengths: Path | None = None) -> list[Goal]:
    """Goals 1, 2 and 3; `lengths` replaces the formula of LibriSpeech's by utterances drawn from a list."""

    def take(count: int) -> Lengths:
        count = max(4, int(count * scale))
        return read_lengths(lengths).drawn(count, 0) if lengths else librispeech_like(count, 0)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            goals = _toy_b(Bench("B", Path(folder) / "B", take(32)))
            goals += _toy_a(Bench("A", Path(folder) / "A", take(16)))
            goals += _toy_c(Bench("C", Path(folder) / "C", take(12)))
            goals += _batching(Bench("B", Path(folder) / "B3", take(64)), 1.5, 1.3)
            goals += _batching(Bench("B", Path(folder) / "B4", in_the_wild(max(4, int(64 * scale)), 0)), 1.9, 1.5)
    finally:
        torch.set_num_threads(before)
    return goals


def _toy_b(bench: Bench) -> list[Goal]:
    found = measure(
        {
            SLAM: bench.others(slam_llm, bench.spoken),
            PLAIN: bench.others(one_by_one, bench.spoken),
            "float32": bench.ours(bench.exact, bench.spoken, EXACT),
            "bfloat16": bench.ours(bench.half, bench.spoken, CLOSE),
            "cached float32": bench.ours(bench.exact, bench.cached, CLOSE),
            "cached bfloat16": bench.ours(bench.half, bench.cached, CLOSE),
        },
        REPEATS,
    )
    note = f"{bench.note}; losses within {found.apart:.1e}"
    return [
        found.ratio("1", "step on the fly, bfloat16, of SLAM-LLM's style in float32", SLAM, "bfloat16", 2.0, note),
        found.ratio("1", "step on the fly, bfloat16, of one-by-one in float32", PLAIN, "bfloat16", 1.3, note),
        found.ratio("1", "step on the fly, float32, of one-by-one", PLAIN, "float32", 1.0, note),
        found.ratio("2", "step on cached frames, float32, B", SLAM, "cached float32", 7.0, note),
        found.ratio("2", "step on cached frames, bfloat16, B", SLAM, "cached bfloat16", 9.0, note),
    ]


def _toy_a(bench: Bench) -> list[Goal]:
    found = measure(
        {
            SLAM: bench.others(slam_llm, bench.spoken),
            "cached float32": bench.ours(bench.exact, bench.cached, CLOSE),
            "cached bfloat16": bench.ours(bench.half, bench.cached, CLOSE),
        },
        REPEATS,
    )
    note = f"{bench.note}; losses within {found.apart:.1e}"
    return [
        found.ratio("2", "step on cached frames, float32, A", SLAM, "cached float32", 8.0, note),
        found.ratio("2", "step on cached frames, bfloat16, A", SLAM, "cached bfloat16", 11.0, note),
    ]


def _toy_c(bench: Bench) -> list[Goal]:
    ways = {
        SLAM: bench.others(slam_llm, bench.spoken),
        "cached bfloat16": bench.ours(bench.half, bench.cached, CLOSE),
    }
    found = measure(ways, REPEATS)
    note = f"{bench.note}; losses within {found.apart:.1e}"
    return [found.ratio("2", "step on cached frames, bfloat16, C", SLAM, "cached bfloat16", 3.0, note)]


def _batching(bench: Bench, over_random: float, over_dynamic: float) -> list[Goal]:
    ways = {
        "random": bench.others(only_batching, bench.cached),
        "random, all logits": bench.others(slam_llm, bench.cached),
        "dynamic": bench.dynamic(only_batching, bench.cached),
        "plan": bench.ours(bench.exact, bench.cached, EXACT),
    }
    found = measure(ways, REPEATS)
    padded = {name: bench.padded(ways[name].batches) for name in ("random", "dynamic")}
    logits = np.median(found.seconds["random, all logits"]) / np.median(found.seconds["plan"])
    note = f"{bench.note}, cached float32, label logits in all; losses within {found.apart:.1e}"
    return [
        found.ratio("3", "batching alone, of random padding", "random", "plan", over_random,
                    f"{note}; padded to {padded['random']:.2f} of the tokens; {logits:.2f} x with all logits"),
        found.ratio("3", "batching alone, of dynamic frame batches", "dynamic", "plan", over_dynamic,
                    f"{note}; padded to {padded['dynamic']:.2f} of the tokens"),
    ]  # fmt: skip


if __name__ == "__main__":
    print_goals(run, "goals 1, 2 and 3")
