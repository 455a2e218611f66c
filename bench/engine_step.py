"""Goal 8, second half: what the DeepSpeed engine costs over plain torch, on a step in which the adapter weighs much.

An adapter of the real size, 17.3 million parameters (5 x 1280 -> 2048 -> 2048), before a frozen LLM of one bfloat16
layer: the least work around the adapter, so the most that the engine can add. Each step is one micro-batch of two
cached utterances: forward, backward, clipping at 1.0, AdamW in float32. Plain torch does the same by hand. CPU time,
one process, steps of all ways interleaved. Their losses must fall alike, within 2e-3 of the first loss in every step:
stages 1 and 2 round otherwise when they clip, which AdamW's first steps and bfloat16 layers enlarge.
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from bench.goal import Goal
from bench.toys import make_tokenizer
from model.adapters import AdapterSpec, build_adapter
from model.batch import Batch, pack
from model.llm import load_llm
from model.prompt import DEFAULT_TEMPLATE, Prompt
from model.slam_asr import SlamAsr
from train.dist.collectives import join_world
from train.engine.engine import Engine, start_deepspeed
from train.recipe.config import OptimConfig
from train.recipe.deepspeed_json import read_deepspeed_json

CONFIGS = Path(__file__).parents[1] / "ds_configs"
WIDTH, HIDDEN = 1280, 2048
LLM: dict[str, Any] = {
    "hidden_size": 2048,
    "num_hidden_layers": 1,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "intermediate_size": 2048,
    "vocab_size": 1000,
}
FRAMES = 150  # 3 s, an utterance
LR = 1e-5
STEPS, UNCOUNTED = 15, 3
ALIKE = 2e-3
PLAIN, STAGES = "plain torch", (0, 1, 2)

Step = Callable[[Batch], float]


def run(scale: float = 1.0) -> list[Goal]:
    """The step under ZeRO stage 0, our default, against plain torch's; stages 1 and 2 are in the note."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = measure(max(4, int(STEPS * scale)))
    finally:
        torch.set_num_threads(before)
    medians = {name: float(np.median(times)) for name, times in found.items()}
    ratios = [ours / plain for ours, plain in zip(found["stage 0"], found[PLAIN], strict=True)]
    others = ", ".join(f"{name} {medians[name] / medians[PLAIN]:.2f} x" for name in medians if name != PLAIN)
    note = f"plain torch {1000 * medians[PLAIN]:.0f} CPU-ms a step, 17.3 M adapter, 2 x 3 s; {others}"
    low, high = np.percentile(ratios, [25, 75])
    spread = f"{low:.2f} to {high:.2f} for half of the steps"
    name = "step of the DeepSpeed engine, of plain torch"
    return [Goal("8", name, float(np.median(ratios)), 1.3, "lower", "x", spread, note)]


def measure(steps: int) -> dict[str, list[float]]:
    """CPU seconds of each step; AssertionError if the ways do not learn the same."""
    with tempfile.TemporaryDirectory() as folder:
        model = _model(Path(folder))
    batch = _batch(model)
    world = join_world()
    start_deepspeed(world, 60.0)
    try:
        ways: dict[str, Step] = {PLAIN: _plain(copy.deepcopy(model))}
        for stage in STAGES:
            config = read_deepspeed_json(CONFIGS / f"zero{stage}.json")
            engine = Engine(copy.deepcopy(model), OptimConfig(lr=LR, max_steps=1), config, 1, world)
            ways[f"stage {stage}"] = _by_engine(engine)
        return _timed(ways, batch, steps)
    finally:
        dist.destroy_process_group()


def _timed(ways: dict[str, Step], batch: Batch, steps: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    first = 0.0
    for number in range(UNCOUNTED + steps):
        losses = {}
        for name, step in ways.items():
            start = time.process_time()
            losses[name] = step(batch)
            if number >= UNCOUNTED:
                seconds[name].append(time.process_time() - start)
        first = first or losses[PLAIN]
        assert all(abs(loss - losses[PLAIN]) < ALIKE * first for loss in losses.values()), losses
    return seconds


def _plain(model: SlamAsr) -> Step:
    adam = torch.optim.AdamW(model.adapter.parameters(), lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)

    def step(batch: Batch) -> float:
        model.train()
        loss = model(batch).loss
        (loss / batch.num_targets).backward()
        torch.nn.utils.clip_grad_norm_(model.adapter.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def _by_engine(engine: Engine) -> Step:
    def step(batch: Batch) -> float:
        loss = engine.forward(batch).loss
        engine.backward(loss, batch.num_targets)
        engine.step(LR)
        return float(loss.detach())

    return step


def _model(folder: Path) -> SlamAsr:
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    config = LlamaConfig(**LLM, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    llm = load_llm(str(folder), dtype="bfloat16")
    spec = AdapterSpec("concat", 5, HIDDEN, 0.0, WIDTH, LLM["hidden_size"])
    return SlamAsr(None, build_adapter(spec), llm, Prompt(llm.tokenizer, DEFAULT_TEMPLATE))


def _batch(model: SlamAsr) -> Batch:
    torch.manual_seed(0)
    targets = [model.prompt.target_ids("arc mrc qbs arc yzc ubk qjs mzc mzs arc")] * 2
    frames = [torch.randn(FRAMES, WIDTH).to(torch.bfloat16) for _ in targets]
    return pack(["a", "b"], ["", ""], targets, features=frames)


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description="goal 8, second half")
    parser.add_argument("--scale", type=float, default=1.0)
    for goal in run(parser.parse_args().scale):
        print(goal.line())


if __name__ == "__main__":
    main()
