"""Loaders side by side, each from tars to batches in the trainer's hands: ours, and worker processes of others.

All deliver the same: speech and target tokens of the same utterances, by the same tokenizer, in micro-batches of the
same length. The consumer reads a byte of every page of what it is given, as a copy to a device would at least.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from webdataset.compat import WebDataset

from data_prep.audio.decode import SAMPLE_RATE
from data_prep.durable import strict_json
from data_prep.shards.index import ShardIndex
from data_prep.shards.reader import read_batch
from model.batch import Batch, cumulative
from model.prompt import Prompt
from train.data.plan import plan_epoch

THREADS = WORKERS = 2
MICRO_BATCH_SECONDS = 200.0  # of audio
TOKENS_PER_SECOND = 15.0  # of the LLM, to plan with
MICRO_BATCHES = 8  # a step
AHEAD = 8  # micro-batches read before they are asked for
PAGE = 4096  # bytes

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers warns in every forked worker otherwise


def threads(index: ShardIndex, prompt: Prompt, seed: int = 0) -> Iterator[Batch]:
    """Ours: an epoch in plan order, at random over all shards, read by threads as the training's loader has it done."""
    tokens = np.ceil(index.samples / SAMPLE_RATE * TOKENS_PER_SECOND).astype(np.int64)
    budget = int(MICRO_BATCH_SECONDS * TOKENS_PER_SECOND)
    plan = plan_epoch(np.arange(len(index)), tokens, seed, 0, budget, MICRO_BATCHES)
    ahead: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for step in range(plan.num_steps):
            for ids in plan.step(step):
                if len(ids):
                    ahead.append(pool.submit(read_batch, index, ids.tolist(), prompt))
                if len(ahead) > AHEAD:
                    yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def workers(dataset: IterableDataset) -> Iterator[Any]:
    """The batches of a dataset by two worker processes, which have ended when the iterator has."""
    return iter(DataLoader(dataset, batch_size=None, num_workers=WORKERS))


@dataclass(frozen=True)
class Nothing(IterableDataset):
    """Costs what starting and ending workers does."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


@dataclass(frozen=True)
class Streamed(IterableDataset):
    """`webdataset.WebDataset` over tars of ours, packed to micro-batches in the worker; no shuffle."""

    paths: tuple[Path, ...]
    prompt: Prompt
    extension: str
    decode: Callable[[bytes], np.ndarray]
    """Of the media."""
    finish: Callable[[np.ndarray], Tensor]
    """Of the packed media."""

    def __iter__(self) -> Iterator[Batch]:
        waiting: list[tuple[str, dict[str, Any], np.ndarray]] = []
        for sample in WebDataset([str(path) for path in self.paths], shardshuffle=False, nodesplitter=None):
            meta = strict_json(sample["json"])
            if sum(other["seconds"] for _, other, _ in waiting) + meta["seconds"] > MICRO_BATCH_SECONDS:
                yield self._pack(waiting)
                waiting = []
            waiting.append((sample["__key__"], meta, self.decode(sample[self.extension])))
        yield self._pack(waiting)

    def _pack(self, waiting: list[tuple[str, dict[str, Any], np.ndarray]]) -> Batch:
        texts = tuple(meta["text"] for _, meta, _ in waiting)
        targets = [self.prompt.target_ids(text) for text in texts]
        cu, none = cumulative([len(data) for *_, data in waiting]), cumulative([0] * len(texts))
        packed = self.finish(np.concatenate([data for *_, data in waiting]))
        is_audio = self.extension == "flac"
        return Batch(
            keys=tuple(key for key, *_ in waiting),
            texts=texts,
            audio=packed if is_audio else None,
            audio_cu=cu if is_audio else none,
            features=None if is_audio else packed,
            feature_cu=none if is_audio else cu,
            targets=torch.tensor([token for tokens in targets for token in tokens], dtype=torch.int64),
            target_cu=cumulative([len(tokens) for tokens in targets]),
        )


def consume(batches: Iterable[Batch], utterances: int) -> None:
    """Takes every batch and reads every page of it. RuntimeError unless they hold so many utterances in all."""
    found = 0
    for batch in batches:
        speech = batch.audio if batch.features is None else batch.features
        assert speech is not None
        touch(speech)
        found += len(batch)
    require(found, utterances)


def touch(speech: Tensor) -> None:
    """Reads one number of every page."""
    speech.flatten()[:: PAGE // speech.element_size()].float().sum()


def require(found: int, utterances: int) -> None:
    """RuntimeError for a loader that leaves out or repeats utterances, so that no such one is measured."""
    if found != utterances:
        raise RuntimeError(f"the loader gave {found} utterances, there are {utterances}")
