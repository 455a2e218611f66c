"""Goal 9: training throughput on one GPU, against what its arithmetic allows. Called by `bench/gpu.sh table`.

In this order, each result written as soon as it is there:
    1. parity: tiny models give the same loss and gradient on the GPU as in float32 on the CPU, packed and padded;
    2. the product's own Loader and Engine, on shards of noise, for HuBERT-XL with TinyLlama and with a 7B
       LLM (random bfloat16 weights), from audio and from cached frames, at rising token budgets;
    3. the same utterances in padded batches, by the SLAM-LLM style loop, against packed ones;
    4. the peak of memory that `slam-asr plan` predicts for each row of 2, beside the one measured.
Utilisation counts the FLOPs of useful tokens alone (bench/flops.py) against a matrix product timed on the
same device.
`--toy` does all this at toy size, on whatever device there is, so that it can be tried without a GPU.
"""

import argparse
import json
import shutil
import sys
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from bench.batching import random_batches
from bench.goal import Goal
from bench.gpu_parity import parity
from bench.gpu_parts import (
    GPU,
    TOY,
    Scale,
    audio_shards,
    feature_shards,
    make_pair,
    matmul_flops_per_second,
    timed,
)
from bench.gpu_plan import planned_and_measured, shapes_for
from bench.gpu_train import HEADER, Record, Row, train_pair
from bench.lengths import Lengths, librispeech_like
from bench.loops import slam_llm
from bench.table import format_table
from bench.toys import TOYS, make_speech
from bench.ways import Loss, ours, planned, tokens_of
from data_prep.shards.index import ShardIndex
from model.slam_asr import SlamAsr
from train.dist.collectives import join_world
from train.engine.engine import start_deepspeed

GOALS = {  # audio-hours an hour, on an H200
    ("TinyLlama", "audio"): 2300,
    ("TinyLlama", "features"): 5700,
    ("7B", "audio"): 930,
    ("7B", "features"): 1200,
}


def measure(scale: Scale, record: Record, device: torch.device) -> bool:
    """Everything; False if parity failed."""
    dtype = torch.bfloat16
    agreed = parity(record.say, device)
    world = join_world()
    start_deepspeed(world, 120.0)
    peak = matmul_flops_per_second(device, dtype, scale.matmul)
    record.say(f"a matrix product of {scale.matmul}: {peak / 1e12:,.1f} TFLOP/s; utilisation is a share of it\n")
    record.say(HEADER)
    lengths = librispeech_like(scale.utterances, 0)
    rows: list[Row] = []
    folder = Path(tempfile.mkdtemp())
    try:
        audio = audio_shards(folder / "audio", lengths)
        for pair in scale.pairs:
            if record.late(pair):
                break
            model = make_pair(TOYS[pair], device, dtype)
            shards = [audio, _features(folder / "features", lengths, model)]
            for row in train_pair(pair, model, shapes_for(TOYS[pair], dtype), shards, scale, peak, world, record):
                record.say(row.line())
                rows.append(row)
            record.say(_padded(model, lengths, scale.budgets[len(scale.budgets) // 3], device))
            del model
            torch.cuda.empty_cache()
    finally:
        shutil.rmtree(folder)
        dist.destroy_process_group()
    _finish(rows, record)
    return agreed


def _features(folder: Path, lengths: Lengths, model: SlamAsr) -> ShardIndex:
    assert model.encoder is not None
    shutil.rmtree(folder, ignore_errors=True)
    return feature_shards(folder, lengths, model.encoder)


def _padded(model: SlamAsr, lengths: Lengths, budget: int, device: torch.device) -> str:
    """Packed against padded, from waves in memory, without the engine."""
    spoken = make_speech(Lengths(lengths.source, lengths.seconds[:96], lengths.characters[:96]), model.prompt, 0)
    tokens = tokens_of(model, spoken)
    size = max(1, int(budget / tokens.mean()))
    model.train()

    def train(loss: Loss, batches: list[np.ndarray]) -> None:
        for batch in batches:
            loss(model, [spoken[i] for i in batch]).backward()
        model.adapter.zero_grad(set_to_none=True)

    works = {"padded": (slam_llm, random_batches(tokens, size, 0)), "packed": (ours, planned(tokens, size))}
    for work in works.values():
        train(*work)
    seconds = {name: timed(device, lambda work=work: train(*work)) for name, work in works.items()}
    hours = {name: sum(one.seconds for one in spoken) / s for name, s in seconds.items()}
    return (
        f"the same utterances, batches of {size}, from waves in memory: packed {hours['packed']:,.0f} audio-h/h, "
        f"SLAM-LLM style padded {hours['padded']:,.0f}: {hours['packed'] / hours['padded']:.2f} x"
    )


def _finish(rows: list[Row], record: Record) -> None:
    """The goals, each at the budget that was fastest, and all rows as JSON."""
    goals = []
    for pair, source in sorted({(row.pair, row.source) for row in rows}):
        best = max((row for row in rows if (row.pair, row.source) == (pair, source)), key=lambda row: row.speed)
        note = f"at {best.budget:,} tokens; utilisation {best.utilisation:.1%}"
        wanted = GOALS.get((pair, source), 0)
        goals.append(Goal("9", f"{pair} from {source}", best.speed, wanted, "higher", "audio-h/h", "one run", note))
        share = best.waited / best.seconds
        waiting = f"{pair} from {source}, waiting for data"
        goals.append(Goal("9", waiting, share, 0.02, "lower", "of 1", "one run", note))
    record.say("\n" + planned_and_measured(rows))
    record.say("\n" + format_table(goals))
    (record.folder / "gpu.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def main() -> int:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description="goal 9, on one GPU")
    parser.add_argument("--toy", action="store_true", help="toy sizes, on any device")
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder for gpu.txt and gpu.json")
    parser.add_argument("--minutes", type=float, default=8.5, help="after which nothing new is begun")
    args = parser.parse_args()
    if not torch.cuda.is_available() and not args.toy:
        print("no GPU here: nothing to measure; goal 9 needs one of 80 GB or more")
        return 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    record = Record(args.out, args.minutes)
    record.say(f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'}, torch {torch.__version__}")
    return 0 if measure(TOY if args.toy else GPU, record, device) else 1


if __name__ == "__main__":
    sys.exit(main())
