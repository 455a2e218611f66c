"""Goal 6: FLAC in tars to packed batches of samples and target tokens. `python -m bench.audio_path`.

Against two loaders with two worker processes each, on the same audio: webdataset over the very same tars, decoding with
soundfile and packing in the worker; lhotse Shar with dynamic bucketing, padded by lhotse's own collation. What starting
and ending the workers costs is measured beside them and taken off, as an epoch is longer than the one here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from bench import corpora
from bench.goal import Goal
from bench.loaders import MICRO_BATCH_SECONDS, Nothing, Streamed, consume, require, threads, touch, workers
from bench.timing import median, ratios, side_by_side, spread
from data_prep.audio.decode import decode
from data_prep.shards.index import ShardIndex
from data_prep.shards.opening import shard_path
from data_prep.utterance import Utterance
from model.prompt import Prompt
from model.sample_rate import SAMPLE_RATE

MINUTES = 45.0
REPEATS = 5
BUCKETS = 10


def run(scale: float = 1.0) -> list[Goal]:
    """CPU seconds an audio-hour, and CPU and wall against both others."""
    torch.set_num_threads(1)
    minutes = max(5.0, round(MINUTES * scale))
    index, prompt = corpora.audio_shards(minutes), corpora.prompt()
    tars = tuple(shard_path(index, shard) for shard in range(len(index.shards)))
    streamed = Streamed(tars, prompt, "flac", decode, torch.from_numpy)
    shar = _lhotse_dataset(_shar(corpora.speech(minutes), minutes), index, prompt)
    costs = side_by_side(
        {
            "ours": lambda: consume(threads(index, prompt), len(index)),
            "start": lambda: consume(workers(Nothing()), 0),
            "webdataset": lambda: consume(workers(streamed), len(index)),
            "lhotse Shar": lambda: _consume_lhotse(workers(shar), len(index)),
        },
        REPEATS,
    )
    hours = index.seconds / 3600
    ours = [one.cpu / hours for one in costs["ours"]]
    wall = [one.wall for one in costs["ours"]]
    note = f"{hours * 60:.0f} min of speech, {index.length.sum() / index.seconds / 1000:.1f} kB/s FLAC, 2 threads, "
    note += f"{index.seconds / median(wall):,.0f} x real time"
    goals = [Goal("6", "audio to batches", median(ours), 0.9, "lower", "CPU-s/audio-h", spread(ours), note)]
    for name in ("webdataset", "lhotse Shar"):
        theirs = [one - start for one, start in zip(costs[name], costs["start"], strict=True)]
        cpu = ratios([one.cpu for one in theirs], [one.cpu for one in costs["ours"]])
        speed = ratios([one.wall for one in theirs], wall)
        note = f"2 workers: {median([one.cpu for one in theirs]) / hours:.2f} CPU-s/audio-h"
        goals.append(Goal("6", f"{name}, CPU of ours", median(cpu), 2.0, "higher", "x", spread(cpu), note))
        note = f"2 workers: {index.seconds / median([one.wall for one in theirs]):,.0f} x real time"
        goals.append(Goal("6", f"{name}, wall of ours", median(speed), 2.0, "higher", "x", spread(speed), note))
    return goals


def _shar(utterances: list[Utterance], minutes: float) -> Path:
    """The same audio as lhotse's shards: FLAC in tars, cuts in JSONL."""
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

    out = corpora.PLACE / f"shar-{minutes:g}"
    done = out.with_suffix(".done")  # beside it, as lhotse takes every file inside for a shard
    if done.exists():
        return out
    out.mkdir(parents=True, exist_ok=True)
    cuts = []
    for utterance in utterances:
        recording = Recording.from_file(utterance.audio, recording_id=utterance.key)
        said = SupervisionSegment(utterance.key, utterance.key, 0.0, recording.duration, text=utterance.text)
        cuts.append(MonoCut(utterance.key, 0.0, recording.duration, 0, recording=recording, supervisions=[said]))
    CutSet.from_cuts(cuts).to_shar(out, fields={"recording": "flac"}, shard_size=corpora.SHARD_SIZE)
    done.touch()
    return out


def _lhotse_dataset(shar: Path, index: ShardIndex, prompt: Prompt) -> IterableDataset:
    """As lhotse documents it for worker processes: shards split among them, a sampler in each.

    The bins are given, which saves lhotse a pass over the data.
    """
    from lhotse import CutSet
    from lhotse.audio.backend import LibsndfileBackend, set_current_audio_backend
    from lhotse.dataset import DynamicBucketingSampler, IterableDatasetWrapper

    set_current_audio_backend(LibsndfileBackend())  # the fastest of its choice for FLAC
    cuts = CutSet.from_shar(in_dir=shar, split_for_dataloading=True, shuffle_shards=True)
    bins = np.quantile(index.samples / SAMPLE_RATE, np.arange(1, BUCKETS) / BUCKETS).tolist()
    sampler = DynamicBucketingSampler(
        cuts, max_duration=MICRO_BATCH_SECONDS, duration_bins=bins, shuffle=True, world_size=1, rank=0
    )
    return IterableDatasetWrapper(_Padded(prompt), sampler)


class _Padded(torch.utils.data.Dataset):
    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt

    def __getitem__(self, cuts: Any) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        from lhotse.dataset.collation import collate_audio

        audio, lengths, *_ = collate_audio(cuts)
        texts = [cut.supervisions[0].text for cut in cuts]
        return audio, lengths, [torch.tensor(self.prompt.target_ids(text)) for text in texts]


def _consume_lhotse(batches: Iterator[Any], utterances: int) -> None:
    found = 0
    for audio, lengths, _ in batches:
        touch(audio)
        found += len(lengths)
    require(found, utterances)


if __name__ == "__main__":
    for goal in run():
        print(goal.line())
