"""Goal 7: cached frames in tars to packed batches, 1,280 bfloat16 numbers a frame. `python -m bench.feature_path`.

Against webdataset over the very same tars in two worker processes, which take the raw bytes as they are and pack them
in the worker: the cheapest that it can do, without its own decoders. All is in the page cache; storage is not measured.
What starting and ending the workers costs is measured beside it and taken off.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench import corpora
from bench.goal import Goal
from bench.loaders import Nothing, Streamed, consume, threads, workers
from bench.timing import median, ratios, side_by_side, spread
from data_prep.shards.opening import shard_path

MINUTES = 20.0
REPEATS = 5
EPOCHS = 3  # read in each repeat: one is over too soon


def run(scale: float = 1.0) -> list[Goal]:
    """CPU seconds an audio-hour, and CPU and wall against webdataset's."""
    torch.set_num_threads(1)
    index, prompt = corpora.feature_shards(max(5.0, round(MINUTES * scale))), corpora.prompt()
    tars = tuple(shard_path(index, shard) for shard in range(len(index.shards)))
    streamed = Streamed(tars * EPOCHS, prompt, "bf16", _raw_frames, _bfloat16)

    def ours() -> None:
        for epoch in range(EPOCHS):
            consume(threads(index, prompt, seed=epoch), len(index))

    costs = side_by_side(
        {
            "ours": ours,
            "start": lambda: consume(workers(Nothing()), 0),
            "webdataset": lambda: consume(workers(streamed), len(index) * EPOCHS),
        },
        REPEATS,
    )
    hours = EPOCHS * index.seconds / 3600
    own_cpu, own_wall = [one.cpu for one in costs["ours"]], [one.wall for one in costs["ours"]]
    theirs = [one - start for one, start in zip(costs["webdataset"], costs["start"], strict=True)]
    cpu, wall = ratios([one.cpu for one in theirs], own_cpu), ratios([one.wall for one in theirs], own_wall)
    per_hour = [seconds / hours for seconds in own_cpu]
    note = (
        f"{hours * 60:.0f} min read from the page cache, 2 threads, {3600 * hours / median(own_wall):,.0f} x real time"
    )
    goals = [
        Goal("7", "cached frames to batches", median(per_hour), 0.25, "lower", "CPU-s/audio-h", spread(per_hour), note)
    ]
    note = f"2 workers: {median([one.cpu for one in theirs]) / hours:.2f} CPU-s/audio-h; wall {median(wall):.1f} x ours"
    goals.append(Goal("7", "webdataset, CPU of ours", median(cpu), 6.0, "higher", "x", spread(cpu), note))
    return goals


def _raw_frames(media: bytes) -> np.ndarray:
    """int16 [T, D], a view of the bytes."""
    return np.frombuffer(media, np.int16).reshape(-1, corpora.WIDTH)


def _bfloat16(packed: np.ndarray) -> Tensor:
    return torch.from_numpy(packed).view(torch.bfloat16)


if __name__ == "__main__":
    for goal in run():
        print(goal.line())
