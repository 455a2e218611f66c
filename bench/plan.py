"""Goals 4 and 5: how much of the ranks' time is useful work under our plan, and what planning costs.

Goal 4 replays an epoch of 40,000 utterances on R ranks without computing it: one micro-batch of 16 utterances on
average a rank and step. Costs are the FLOPs of HuBERT-XL with TinyLlama, attention included, counted from seconds and
real tokens (bench/flops.py), while the plan knows only its own estimate. Where a micro-batch is padded, what
is computed is its size times the cost of its longest. The useful share of the slowest rank, as all others wait for it:

    mean over steps of  (mean over ranks of the utterances' own costs) / (highest computed cost of a rank)

and a rank without a micro-batch counts as useful cost 0. Of the others only whole steps are counted, which is kind to
them. Given a file of real lengths, the simulation is repeated on 40,000 utterances drawn from it.

Goal 5 is the CPU time of `plan_epoch` over a million utterances, and of taking a rank's micro-batches out of the plan:
of a micro-batch, and in the note of a step of all ranks and of the epoch. Every rank plans the whole epoch.
"""

import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.batching import bucket_batches, dynamic_batches, random_batches
from bench.flops import adapter_flops, encoder_flops, llm_flops
from bench.goal import Goal
from bench.lengths import CHARACTERS_PER_TOKEN, Lengths, in_the_wild, librispeech_like, print_goals, read_lengths
from bench.toys import TOYS, configs
from model.adapters import AdapterSpec
from model.sample_rate import SAMPLE_RATE
from train.data.corpus import TEXT_BYTES_PER_TOKEN
from train.data.plan import cost_of, plan_epoch

UTTERANCES, PLANNED = 40_000, 1_000_000
MEAN_BATCH = 16  # utterances a micro-batch
PROMPT = 20  # tokens around the speech
WORLDS = (64, 1024, 4096)
SHARE_GOALS = {64: 0.97, 1024: 0.96}
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Sizes:
    """What the utterances of a corpus are to the plan, and what they cost."""

    planned: np.ndarray
    """int64 [N], tokens as the corpus estimates them."""
    tokens: np.ndarray
    """int64 [N], tokens as they are."""
    encoding: np.ndarray
    """float64 [N], FLOPs."""
    answering: np.ndarray
    """float64 [N], FLOPs of adapter and LLM, forward and backward."""


def sizes_of(lengths: Lengths) -> Sizes:
    """Under HuBERT-XL, 5 frames stacked, and TinyLlama."""
    encoder, llm = configs(TOYS["TinyLlama"])
    samples = (lengths.seconds * SAMPLE_RATE).astype(np.int64)
    speech = (samples - 80) // 320 // 5
    targets = np.ceil(lengths.characters / CHARACTERS_PER_TOKEN).astype(np.int64) + 1
    tokens = PROMPT + speech + targets - 1
    adapter = AdapterSpec("concat", 5, 2048, 0.0, encoder.hidden_size, llm.hidden_size)
    answering = adapter_flops(adapter, speech) + llm_flops(llm, tokens, targets)
    planned = PROMPT + speech + -(-lengths.characters // TEXT_BYTES_PER_TOKEN)
    return Sizes(planned, tokens, encoder_flops(encoder, samples).astype(float), answering.astype(float))


def useful_share(sizes: Sizes, batches: Sequence[np.ndarray], ranks: int, padded: bool, whole_only: bool) -> float:
    """As the file's docstring says; `batches` in order, `ranks` of them a step."""
    count = len(batches) // ranks if whole_only else -(-len(batches) // ranks)
    assert count > 0, f"{len(batches)} micro-batches are not one step of {ranks} ranks"
    useful, computed = np.zeros(count * ranks), np.zeros(count * ranks)
    for number, batch in enumerate(batches[: count * ranks]):
        if len(batch):
            useful[number] = (sizes.encoding[batch] + sizes.answering[batch]).sum()
            longest = sizes.encoding[batch].max() + sizes.answering[batch].max()
            computed[number] = longest * len(batch) if padded else useful[number]
    return float((useful.reshape(count, ranks).mean(1) / computed.reshape(count, ranks).max(1)).mean())


def simulate(lengths: Lengths, ranks: int, seed: int) -> dict[str, float]:
    """The useful share under each way of batching."""
    sizes = sizes_of(lengths)
    costs, budget = cost_of(sizes.planned), int(MEAN_BATCH * sizes.tokens.mean())
    plan = plan_epoch(
        np.arange(len(lengths)), sizes.planned, seed, 0, max(int(MEAN_BATCH * costs.mean()), int(costs.max())), ranks
    )
    ours = [batch for step in range(plan.num_steps) for batch in plan.step(step)]
    others = {
        "random": random_batches(sizes.tokens, MEAN_BATCH, seed),
        "SLAM dynamic": dynamic_batches(sizes.tokens, budget, seed),
        "30 buckets": bucket_batches(sizes.tokens, budget, seed, ranks),
    }
    shares = {
        name: useful_share(sizes, batches, ranks, True, True) if len(batches) >= ranks else float("nan")
        for name, batches in others.items()
    }
    return shares | {"plan": useful_share(sizes, ours, ranks, False, False)}


def run(scale: float = 1.0, lengths: Path | None = None) -> list[Goal]:
    """Goals 4 (at 64 and 1,024 ranks, never scaled) and 5; `lengths` adds goal 4 over real ones."""
    corpora = [librispeech_like(UTTERANCES, 0), in_the_wild(UTTERANCES, 0)]
    if lengths is not None:
        corpora.append(read_lengths(lengths).drawn(UTTERANCES, 0))
    goals = [goal for corpus in corpora for goal in _shares(corpus)]
    return goals + _planning(max(100_000, int(PLANNED * scale)))


def _shares(corpus: Lengths) -> list[Goal]:
    found = {ranks: [simulate(corpus, ranks, seed) for seed in SEEDS] for ranks in WORLDS}
    medians = {
        ranks: {name: float(np.median([share[name] for share in shares])) for name in shares[0]}
        for ranks, shares in found.items()
    }
    goals = []
    for ranks, goal in SHARE_GOALS.items():
        ours = [share["plan"] for share in found[ranks]]
        others = ", ".join(f"{name} {share:.2f}" for name, share in medians[ranks].items() if name != "plan")
        note = f"{len(corpus):,} utterances, {corpus.source}; {others}"
        if ranks == 1024:
            note += f"; the plan at {WORLDS[-1]:,} ranks {medians[WORLDS[-1]]['plan']:.3f}"
        name = f"useful work of the slowest of {ranks:,} ranks"
        spread = f"{min(ours):.3f} to {max(ours):.3f}"
        goals.append(Goal("4", name, medians[ranks]["plan"], goal, "higher", "of 1", spread, note))
    return goals


def _planning(utterances: int) -> list[Goal]:
    planned = sizes_of(librispeech_like(utterances, 0)).planned
    alone = [plan_seconds(planned, 1) for _ in SEEDS]
    many = [plan_seconds(planned, 1024) for _ in SEEDS]
    figures = [1000 * seconds / batches for seconds, batches, _ in many]
    seconds, batches, steps = many[0]
    note = (
        f"{utterances:,} utterances at world 1,024: {seconds:.2f} s an epoch of {steps} steps and {batches:,} "
        f"micro-batches, {1000 * seconds / steps:.1f} ms a step{_lhotse()}"
    )
    growth = [m[0] / m[1] / (a[0] / a[1]) for m, a in zip(many, alone, strict=True)]
    ones = [1000 * s / b for s, b, _ in alone]
    return [
        Goal("5", "planning, a micro-batch", float(np.median(figures)), 0.1, "lower", "CPU-ms", _range(figures), note),
        Goal("5", "planning at world 1,024, of world 1", float(np.median(growth)), 1.5, "lower", "x", _range(growth),
             f"a micro-batch at world 1 takes {np.median(ones):.4f} CPU-ms"),
    ]  # fmt: skip


def plan_seconds(planned: np.ndarray, ranks: int) -> tuple[float, int, int]:
    """CPU seconds to plan an epoch and to take every step's share of rank 0 out of it; micro-batches; steps."""
    budget = int(MEAN_BATCH * cost_of(planned).mean())
    start = time.process_time()
    plan = plan_epoch(np.arange(len(planned)), planned, 0, 0, budget, ranks)
    for step in range(plan.num_steps):
        plan.step(step)[0::ranks]
    return time.process_time() - start, plan.num_steps * ranks, plan.num_steps


def _lhotse(steps: int = 4) -> str:
    """The same of lhotse's sampler, where it is installed, per step of one rank; in words."""
    try:
        importlib.import_module("lhotse")
    except ImportError:
        return "; lhotse is not installed here to compare with"
    found = {world: lhotse_seconds(world, steps if world > 1 else 100) for world in (1, 1024)}
    return "; lhotse's DynamicBucketingSampler: " + ", ".join(
        f"{1000 * seconds:.3g} CPU-ms a step at world {world:,}" for world, seconds in found.items()
    )


def lhotse_seconds(world: int, steps: int) -> float:
    """CPU seconds of one `next` of rank 0's sampler."""
    lhotse: Any = importlib.import_module("lhotse")
    dataset: Any = importlib.import_module("lhotse.dataset")
    lengths = librispeech_like(UTTERANCES, 0)
    cuts = lhotse.CutSet.from_cuts(
        lhotse.MonoCut(id=str(i), start=0, duration=round(seconds, 3), channel=0)
        for i, seconds in enumerate(lengths.seconds.tolist())
    )
    sampler = dataset.DynamicBucketingSampler(
        cuts.repeat(), max_duration=200.0, num_buckets=30, shuffle=True, world_size=world, rank=0
    )
    rows = iter(sampler)
    next(rows)  # fills its buffers
    start = time.process_time()
    for _ in range(steps):
        next(rows)
    return (time.process_time() - start) / steps


def _range(figures: Sequence[float]) -> str:
    return f"{min(figures):.3g} to {max(figures):.3g}"


if __name__ == "__main__":
    print_goals(run, "goals 4 and 5")
