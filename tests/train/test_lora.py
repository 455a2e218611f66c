"""Trainings of adapter and LoRA: what must not depend on how they are run, and what becomes of them afterwards."""

import re
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launch.command import main
from tests import ranks
from tests.accidents import Signalled
from tests.train.runs import assert_same, command, run

LORA = ["lora.rank=4", "lora.lr=1e-3", "lora.dropout=0.1", "model.dtype=float32"]
TRAINED = ("adapter.safetensors", "lora.safetensors", "optimizer.safetensors")
KILL = signal.SIGKILL


def checkpoint(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:08d}"


@pytest.mark.parametrize(("world", "stage"), [(2, 2), (2, 3)])
def test_ranks_and_zero_stages_give_one_loss_one_gradient_and_one_update(ground, straight, tmp_path, world, stage):
    reference, folder = straight(1, 0, *LORA), tmp_path / "run"
    run(ground, folder, *LORA, "optim.max_steps=2", world=world, stage=stage)
    assert ranks.losses(folder) == pytest.approx(ranks.losses(reference)[:2], rel=1e-5)
    norms = ranks.losses(folder, figure="grad_norm")
    assert norms == pytest.approx(ranks.losses(reference, figure="grad_norm")[:2], rel=1e-4)
    for name in TRAINED:
        ours, theirs = (load_file(checkpoint(path, 2) / name) for path in (folder, reference))
        assert ours.keys() == theirs.keys()
        assert all((tensor - theirs[key]).abs().max() < 1e-5 for key, tensor in ours.items())


@pytest.mark.parametrize(("dtype", "world", "stage"), [("bfloat16", 2, 3), ("float16", 1, 3), ("float16", 1, 2)])
def test_updates_are_float32_beside_an_llm_of_half_precision(ground, straight, tmp_path, dtype, world, stage):
    """Of the first update: AdamW then steps by the sign even of gradients that are nothing but rounding. In float16 the
    first step overflows and halves the loss scale, which LoRA's gradients must not show."""
    given = [*LORA, f"model.dtype={dtype}", f"optim.max_steps={1 if dtype == 'bfloat16' else 2}"]
    run(ground, tmp_path / "run", *given, world=world, stage=stage)
    for figure, tolerance in (("loss", 2e-3), ("grad_norm", 3e-2)):
        ours, theirs = (
            ranks.losses(folder, figure=figure)[-1] for folder in (tmp_path / "run", straight(1, 0, *given))
        )
        assert ours == pytest.approx(theirs, rel=tolerance)
    (last,) = (tmp_path / "run" / "checkpoints").glob("step-0000000[12]")
    assert all(tensor.dtype == torch.float32 for tensor in load_file(last / "lora.safetensors").values())


def test_a_run_goes_on_with_another_number_of_ranks_and_another_stage(ground, straight, tmp_path):
    for world, stage, steps in ((2, 3, 2), (1, 0, 5), (2, 1, 8)):
        run(ground, tmp_path / "run", *LORA, f"optim.max_steps={steps}", world=world, stage=stage)
    assert ranks.losses(tmp_path / "run") == pytest.approx(ranks.losses(straight(1, 0, *LORA)), rel=1e-5)


def test_lora_learns_at_its_own_rate_and_the_first_weights_of_the_adapter_are_those_without_it(ground, straight):
    with_lora, without = straight(1, 0, *LORA), straight()
    first = [(checkpoint(folder, 0) / "adapter.safetensors").read_bytes() for folder in (with_lora, without)]
    assert first[0] == first[1]
    assert ranks.losses(with_lora, figure="lr") == ranks.losses(without, figure="lr"), "the adapter's"
    assert (
        "LoRA of rank 4 on the LLM's q_proj, v_proj: 1,344 parameters, trained with a learning rate of up to 0.001"
        in (with_lora.with_suffix(".log").read_text())
    )
    begun, done = (load_file(checkpoint(with_lora, step) / "lora.safetensors") for step in (0, 2))
    for name, tensor in done.items():
        change = (tensor - begun[name]).abs().max()
        # AdamW moves by the learning rate, whatever the gradient: 1e-3 / 3 and 2e-3 / 3 in two steps of the warm-up. A
        # has a gradient from the second step on, as B begins at zero: sqrt(1.999) / 1.9 of that.
        assert change == pytest.approx(1e-3 if "lora_B" in name else 0.744 * 2e-3 / 3, rel=0.05), name
        assert "lora_A" in name or not begun[name].any()


def test_a_rank_of_zero_is_no_lora_to_the_last_bit(ground, straight, tmp_path):
    run(ground, tmp_path / "run", "lora.rank=0", "lora.alpha=3", "lora.lr=1")
    assert_same(tmp_path / "run", straight())
    names = {path.name for path in checkpoint(straight(), 8).iterdir()}
    assert names == {"adapter.json", "adapter.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"}
    for name in names:
        assert (checkpoint(tmp_path / "run", 8) / name).read_bytes() == (checkpoint(straight(), 8) / name).read_bytes()


def gemma2(ground: Path, folder: Path) -> Path:
    """A tiny LLM with the tokenizer of the ground's."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 300, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.5}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma2", **sizes, **ids))
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((ground / "llm" / name).read_bytes())
    return folder


def test_killed_and_resumed_to_the_same_bits_exported_decoded_and_begun_from(ground, tmp_path, capfd):
    """Two ranks of ZeRO-3, the hardest case for saving; tests/test_pairs.py trains and saves LoRA for 18 families."""
    llm, world, stage = gemma2(ground, tmp_path / "llm"), 2, 3
    given = [*LORA, f"model.llm={llm}", f"data.dev={ground / 'dev'}", "optim.max_steps=4"]
    run(ground, tmp_path / "straight", *given, world=world, stage=stage)
    arguments, log = command(ground, tmp_path / "run", *given, stage=stage), tmp_path / "log"
    assert -KILL in ranks.start(arguments, world, log, before=Signalled(KILL, (0,), nth=4)).wait(), log.read_text()
    assert re.search("resuming from .*step-0*2 ", ranks.train(arguments, world, tmp_path / "last.log"))
    assert_same(tmp_path / "run", tmp_path / "straight", 4)
    for name in TRAINED:
        ours, theirs = (checkpoint(tmp_path / folder, 4) / name for folder in ("run", "straight"))
        assert ours.read_bytes() == theirs.read_bytes()

    assert main(["export", str(tmp_path / "run"), str(tmp_path / "export")]) == 0
    assert "adapter and LoRA of step 4" in capfd.readouterr().out
    merged = str(tmp_path / "merged")
    assert main(["export", str(tmp_path / "run"), merged, "--format", "merged"]) == 0
    assert f"{merged}/llm: LoRA changes the LLM's logits by" in capfd.readouterr().out
    recording = str(ground / "audio" / "utt-000.flac")
    for adapter in (str(tmp_path / "export"), merged):
        assert main(["transcribe", adapter, recording, "--max-new-tokens", "3"]) == 0
        assert capfd.readouterr().out.startswith(f"{recording}\t")

    begun = [*given, f"model.init_from={tmp_path / 'export'}", "eval.at_start=true", "optim.max_steps=1"]
    said = run(ground, tmp_path / "begun", *begun)
    assert f"starting from the adapter and LoRA of {tmp_path / 'export'}, of step 4" in said
    first, last = ranks.losses(tmp_path / "begun", "dev")[0], ranks.losses(tmp_path / "run", "dev")[-1]
    assert first == pytest.approx(last, rel=1e-6)
