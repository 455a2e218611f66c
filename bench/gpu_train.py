"""The product's own Loader and Engine on one device, over shards of noise: speed, utilisation, memory, waiting."""

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from bench.flops import llm_weights
from bench.gpu_parts import Scale, useful_flops, wait
from bench.lengths import CHARACTERS_PER_TOKEN
from data_prep.shards.index import ShardIndex
from launch.plan.data import utterance_of
from launch.plan.probe import predicted_bytes
from launch.plan.shapes import Shapes
from launch.plan.simulation import StepCost, simulate
from model.batch import Batch
from model.errors import UserError
from model.slam_asr import SlamAsr
from train.data.corpus import make_corpus
from train.data.loader import Loader, Share
from train.data.plan import Epochs
from train.dist.collectives import World
from train.engine.engine import Engine
from train.recipe.config import DataConfig, OptimConfig

READERS = 4  # threads, as many cores as goal 9 allows the loader
UNCOUNTED_STEPS = 3
LR = 1e-4
HEADER = "pair       source    tokens  micro-batch  audio-h/h  tokens/s  utilisation  peak GB  waits"


@dataclass(frozen=True)
class Row:
    """One pair, source and token budget."""

    pair: str
    source: str
    """audio or features."""
    budget: int
    audio_seconds: float
    tokens: int
    flops: float
    seconds: float
    """On the wall."""
    waited: float
    """Of them, for the loader."""
    steps: int
    peak_bytes: int
    planned_bytes: float
    """What `slam-asr plan` predicts for the peak with the largest of these micro-batches."""
    utilisation: float

    @property
    def speed(self) -> float:
        """Audio-hours an hour."""
        return self.audio_seconds / self.seconds

    def line(self) -> str:
        return (
            f"{self.pair:10} {self.source:9} {self.budget:6,}  {self.tokens / self.steps:11,.0f}  {self.speed:9,.0f}  "
            f"{self.tokens / self.seconds:8,.0f}  {self.utilisation:11.1%}  {self.peak_bytes / 2**30:7.1f}  "
            f"{self.waited / self.seconds:5.1%}"
        )


class Record:
    """Lines on the terminal and in a file, at once."""

    def __init__(self, folder: Path, minutes: float, name: str = "gpu.txt") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._file = open(folder / name, "w")
        self._ends = time.monotonic() + 60 * minutes

    def say(self, text: str) -> None:
        print(text, flush=True)
        self._file.write(text + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    @property
    def time_is_up(self) -> bool:
        return time.monotonic() >= self._ends

    def late(self, what: str) -> bool:
        """True, and said, once the time is up."""
        if not self.time_is_up:
            return False
        self.say(f"{what}: left out, the time is up")
        return True


def train_pair(
    name: str,
    model: SlamAsr,
    shapes: Shapes,
    shards: list[ShardIndex],
    scale: Scale,
    peak: float,
    world: World,
    record: Record,
) -> Iterator[Row]:
    """Every source and budget, until memory or time is up; one engine, as one process has one in training."""
    engine = Engine(model, OptimConfig(lr=LR, max_steps=1), {"zero_optimization": {"stage": 0}}, 1, world)
    record.say(f"{name}: LLM layers of {llm_weights(model.llm.config):,} weights")
    for index in shards:
        for budget in scale.budgets:
            if record.late(f"{name} {index.kind} {budget}"):
                return
            row = fault = None
            try:
                row = _train(name, engine, shapes, index, budget, scale.seconds, peak)
            except UserError as error:  # memory ran out
                fault = str(error)
            if row is None:
                record.say(f"{name:10} {index.kind:9} {budget:6,}  {fault}")
                torch.cuda.empty_cache()
                break
            yield row


def _train(
    name: str, engine: Engine, shapes: Shapes, index: ShardIndex, budget: int, seconds: float, peak: float
) -> Row:
    model, world = engine.model, engine.world
    on_gpu = world.device.type == "cuda"
    data = DataConfig(train=(str(index.root),), reader_threads=READERS)
    corpus = make_corpus(index, data, None, budget, model)
    epochs = Epochs(corpus.ids, corpus.tokens_in, 0, budget, 1)
    loader = Loader(corpus, epochs, model.prompt, world, data)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with closing(cast(Generator[Share], loader.steps(0))) as steps:
        planned, cost = 0.0, _cost_of(engine, shapes, index)
        for _ in range(UNCOUNTED_STEPS):
            planned = max(planned, _planned(engine, shapes, cost, share := next(steps)))
            _step(engine, share)
        wait(world.device)
        audio, tokens, flops, waited, count, start = 0.0, 0, 0.0, 0.0, 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            share = next(steps)
            planned = max(planned, _planned(engine, shapes, cost, share))
            tokens += _step(engine, share)
            audio, waited, count = audio + share.seconds, waited + share.waited, count + 1
            flops += sum(useful_flops(model, slot.batch) for slot in share.slots)
        wait(world.device)
        took = time.perf_counter() - start
    memory = torch.cuda.max_memory_allocated() if on_gpu else 0
    return Row(
        name, index.kind, budget, audio, tokens, flops, took, waited, count, memory, planned, flops / took / peak
    )


def _cost_of(engine: Engine, shapes: Shapes, index: ShardIndex) -> StepCost:
    """What a micro-batch of the mean utterance takes, as `slam-asr plan` predicts it."""
    targets, prompt = round(index.characters.mean() / CHARACTERS_PER_TOKEN) + 1, engine.model.prompt
    around = len(prompt.prefix_ids) + len(prompt.suffix_ids)
    mean = utterance_of(shapes, int(index.samples.mean()), targets, around)
    return simulate(shapes, mean, int(index.samples.max()), around, packed=engine.device.type == "cuda")


def _planned(engine: Engine, shapes: Shapes, cost: StepCost, share: Share) -> float:
    """Bytes, as predicted; the encoder is there for cached frames too."""
    tokens = max(_tokens(engine.model, slot.batch) for slot in share.slots)
    return predicted_bytes(shapes, cost, tokens, cached=share.slots[0].batch.audio is None, with_encoder=True)


def _tokens(model: SlamAsr, batch: Batch) -> int:
    """Fed into the LLM; the end of an answer is predicted, never fed in."""
    around = len(model.prompt.prefix_ids) + len(model.prompt.suffix_ids) - 1
    return int(model.speech_tokens(batch).sum()) + batch.num_targets + around * len(batch)


def _step(engine: Engine, share: Share) -> int:
    """One update, as train_step in train/loop.py makes it; the LLM tokens that it computed."""
    share.check()
    batches = [slot.batch for slot in share.slots]
    num_targets = sum(batch.num_targets for batch in batches)
    losses = []
    for batch in batches:
        losses.append(engine.forward(batch).loss)
        engine.backward(losses[-1], num_targets)
    engine.step(LR)
    torch.stack([loss.detach() for loss in losses]).sum().item()  # a step waits for its loss
    return sum(_tokens(engine.model, batch) for batch in batches)
