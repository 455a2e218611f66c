"""What a plan predicts of a step, against what autograd keeps, what is counted by hand and what a process takes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.flops import adapter_flops, encoder_flops, llm_flops
from bench.toys import TOYS, configs
from launch.plan.data import utterance_of
from launch.plan.shapes import Shapes, random_batch, random_recogniser, shapes_of
from launch.plan.simulation import simulate
from model.adapters import ADAPTERS, build_adapter
from tests.launch.test_plan_verb import MIDDLING, ROOT, STAND_IN, write_config, write_recipe
from train.recipe.models import AdapterConfig, LoraConfig, ModelConfig

WHOLE_PAGES = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""So that a freed tensor goes back to the system, and is not taken for one that is kept."""


@pytest.fixture(autouse=True)
def _attention_as_on_a_gpu(monkeypatch):
    """On a CPU short utterances attend in float32, which keeps more; plans are for GPUs."""
    monkeypatch.setattr("model.packing.SHORT", 0)


def models(dtype: Any, **more: Any) -> ModelConfig:
    return ModelConfig(encoder="-", llm="-", dtype=dtype, **more)


def kept_bytes(shapes: Shapes, number: int) -> tuple[float, float, float]:
    """What autograd keeps of a micro-batch of so many utterances of 4 s, each storage once; what is predicted; and
    what ZeRO-3 is predicted to keep besides.
    """
    utterance, device = utterance_of(shapes, 64_000, 16, 20), torch.device("cpu")
    model = random_recogniser(shapes, device, 20).train()
    batch = random_batch(shapes, utterance, number, device)
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    storages: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model(batch).loss
    assert loss.requires_grad
    predicted = simulate(shapes, utterance, utterance.samples, 20).at(number)
    return sum(storage.nbytes() for storage in storages.values()), predicted.kept, predicted.inputs


@pytest.mark.parametrize(
    ("family", "more", "dtype", "dropout"),
    [
        ("llama", {}, "float32", 0.0),
        ("llama", {"num_key_value_heads": 2}, "bfloat16", 0.1),
        ("qwen3", {"num_key_value_heads": 2, "head_dim": 64}, "bfloat16", 0.0),
        ("qwen2", {}, "bfloat16", 0.0),
        ("mistral", {"num_key_value_heads": 4, "sliding_window": 4096}, "bfloat16", 0.0),
        ("phi3", {"pad_token_id": 0}, "bfloat16", 0.0),
        ("gemma", {"head_dim": 48}, "bfloat16", 0.0),
        ("gemma3_text", {"head_dim": 48}, "bfloat16", 0.0),
        ("granite", {}, "float32", 0.0),
        ("olmo2", {}, "float32", 0.0),
    ],
)
def test_what_is_predicted_to_be_kept_is_what_autograd_keeps(family, more, dtype, dropout):
    from transformers import AutoConfig

    sizes = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4}
    llm: Any = AutoConfig.for_model(family, **{**sizes, "num_key_value_heads": 4, "vocab_size": 900, **more})
    encoder = AutoConfig.from_pretrained(str(STAND_IN / "encoder"))
    adapter = AdapterConfig(hidden=256, dropout=dropout)
    shapes = shapes_of(encoder, llm, models(dtype, adapter=adapter))
    measured, predicted, _ = kept_bytes(shapes, 7)
    assert predicted == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("type", sorted(ADAPTERS))
def test_a_plan_knows_every_adapter(type):
    """Its parameters, and what autograd keeps of it."""
    from transformers import AutoConfig

    llm: Any = AutoConfig.for_model(**{**MIDDLING, "num_hidden_layers": 1})
    encoder = AutoConfig.from_pretrained(str(STAND_IN / "encoder"))
    adapter = AdapterConfig(type=type, hidden=512, dropout=0.1, match_norm=True)
    shapes = shapes_of(encoder, llm, models("float32", adapter=adapter))
    assert shapes.adapter_parameters == sum(p.numel() for p in build_adapter(shapes.adapter).parameters())
    measured, predicted, _ = kept_bytes(shapes, 3)
    assert predicted == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(("targets", "checkpointed"), [(("auto",), False), (("all-linear",), False), (("auto",), True)])
def test_a_plan_knows_lora(targets, checkpointed):
    """Its parameters, and, unless layers are computed again, what autograd keeps of it."""
    from transformers import AutoConfig

    llm: Any = AutoConfig.for_model(**{**MIDDLING, "num_hidden_layers": 2})
    encoder = AutoConfig.from_pretrained(str(STAND_IN / "encoder"))
    recipe = models("float32", activation_checkpointing=checkpointed)
    shapes = shapes_of(encoder, llm, recipe, LoraConfig(rank=4, targets=targets, dropout=0.1))
    assert shapes.lora_parameters == sum(
        p.numel() for p in random_recogniser(shapes, torch.device("cpu"), 20).trained.values()
    ) - sum(p.numel() for p in build_adapter(shapes.adapter).parameters())
    measured, predicted, _ = kept_bytes(shapes, 3)
    assert checkpointed or predicted == pytest.approx(measured, rel=0.05)


def test_in_zero3_the_inputs_of_deepspeeds_own_products_are_kept_too(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.zero.linear import zero3_linear_wrap
    from transformers import AutoConfig

    llm: Any = AutoConfig.for_model(**{**MIDDLING, "num_hidden_layers": 2})
    encoder = AutoConfig.from_pretrained(str(STAND_IN / "encoder"))
    shapes = shapes_of(encoder, llm, models("bfloat16", adapter=AdapterConfig(hidden=256)))
    plain, predicted, inputs = kept_bytes(shapes, 6)
    monkeypatch.setattr(torch.nn.functional, "linear", zero3_linear_wrap)  # what deepspeed.zero.Init does
    measured = kept_bytes(shapes, 6)[0]
    on_a_cpu = 6 * utterance_of(shapes, 64_000, 16, 20).tokens * 2 * 512 * 2  # a copy of the heads' outputs, two layers
    assert predicted + inputs + on_a_cpu == pytest.approx(measured, rel=0.02) and measured > 1.1 * plain


@pytest.mark.parametrize("name", ["TinyLlama", "7B"])
def test_flops_are_those_counted_by_hand(name):
    encoder, llm = configs(TOYS[name])
    shapes = shapes_of(encoder, llm, models("bfloat16", adapter=AdapterConfig(hidden=2048)))
    utterance = utterance_of(shapes, 196_800, 45, 20)
    at = simulate(shapes, utterance, 196_800, 20).at(1)
    by_hand = llm_flops(llm, utterance.tokens, 45) + adapter_flops(shapes.adapter, utterance.frames // 5)
    assert at.flops == pytest.approx(by_hand, rel=1e-3)
    assert at.encoder_flops == pytest.approx(encoder_flops(encoder, 196_800), rel=1e-3)


WHISPER: dict[str, Any] = {
    **{"model_type": "whisper", "d_model": 256, "encoder_layers": 4, "decoder_layers": 1, "num_mel_bins": 80},
    **{"encoder_attention_heads": 4, "encoder_ffn_dim": 1024, "decoder_attention_heads": 4, "vocab_size": 100},
}
GEMMA3: dict[str, Any] = {**MIDDLING, "model_type": "gemma3_text", "head_dim": 64, "sliding_window": 100}
LORA: dict[str, Any] = {"rank": 8, "targets": ["all-linear"]}
PAIRS: list[tuple[Any, Any, tuple[int, int], dict[str, Any]]] = [
    (None, {**MIDDLING, "num_hidden_layers": 3}, (600, 1500), {"model": {"activation_checkpointing": True}}),
    (WHISPER, GEMMA3, (500, 1200), {"lora": LORA, "model": {"encoder_window": "cut"}}),
]


@pytest.mark.parametrize(("encoder", "llm", "budgets", "sections"), PAIRS)
def test_the_predicted_peak_is_what_a_process_of_the_products_own_engine_takes(
    tmp_path, encoder, llm, budgets, sections
):
    """Both sizes in one process, in float32: the whole, and what the larger one takes more, to 15 %."""
    folders = [
        write_config(tmp_path / name, config) if config else STAND_IN / name
        for name, config in (("llm", llm), ("encoder", encoder))
    ]
    recipe = Path(write_recipe(tmp_path, *folders, dtype="float32"))
    document = json.loads(recipe.read_text())
    recipe.write_text(json.dumps(document | {name: document.get(name, {}) | own for name, own in sections.items()}))
    done = subprocess.run(
        [sys.executable, "-m", "tests.launch.planning_peak", str(recipe), *map(str, budgets)],
        cwd=ROOT,
        env={**os.environ, **WHOLE_PAGES},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    readings = json.loads(done.stdout.splitlines()[-1])
    measured = np.array([reading["measured_bytes"] for reading in readings])
    predicted = np.array([reading["predicted_bytes"] for reading in readings])
    print("of the whole", predicted / measured, "of the growth", np.diff(predicted) / np.diff(measured))
    assert len(readings) == 2 and predicted / measured == pytest.approx(1, abs=0.15)
    assert np.diff(predicted) / np.diff(measured) == pytest.approx(1, abs=0.15)
