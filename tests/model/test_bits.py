"""Quantised LLM weights: close to the float LLM, exact in their own arithmetic, and gradients pass through."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from model.adapters import AdapterSpec, build_adapter
from model.batch import pack
from model.errors import UserError
from model.llm import load_llm
from model.llm.bits import replaced_weights, require_quantisable, weight_bytes
from model.slam_asr import SlamAsr
from tests.model.test_llm import GROUPED, save_llm
from tests.tiny import tiny_models

OFF = {"nf4": 0.1, "int8": 0.01}  # relative, of loss; rounding of weights drawn at random


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    return save_llm(folder / "calm", "llama", {**GROUPED, "initializer_range": 0.1}, tiny_models(folder)[1])


def loss_and_gradient(source: str, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Of an adapter between random features and the LLM."""
    torch.manual_seed(1)
    adapter, prompt = build_adapter(AdapterSpec("concat", 2, 16, 0.0, 12, 32)), SimpleNamespace()
    prompt.prefix_ids, prompt.suffix_ids = [1, 5, 6], [7, 8]
    model = SlamAsr(None, adapter, load_llm(source, dtype), prompt)  # pyright: ignore[reportArgumentType]
    features = [torch.randn(frames, 12) for frames in (14, 9)]
    with torch.no_grad():  # as an evaluation before training; bitsandbytes lays weights out anew for it on some CPUs
        model(pack(["a", "b"], ["", ""], [[9, 10, 2], [11, 2]], features=features))
    loss = model(pack(["a", "b"], ["", ""], [[9, 10, 2], [11, 2]], features=features)).loss
    gradient = torch.autograd.grad(loss, list(adapter.parameters()))
    return loss.detach(), torch.cat([part.flatten() for part in gradient])


@pytest.mark.parametrize("dtype", OFF)
def test_loss_and_gradient_are_near_those_of_the_float_llm(source, dtype):
    wanted, gradient = loss_and_gradient(source, "float32")
    loss, found = loss_and_gradient(source, dtype)
    assert 0 < (loss - wanted).abs() < OFF[dtype] * wanted
    assert F.cosine_similarity(found, gradient, dim=0) > 1 - 2 * OFF[dtype]


@pytest.mark.parametrize("dtype", OFF)
def test_only_the_bodys_linear_layers_are_replaced_and_the_llm_is_the_same_one(source, dtype):
    plain, loaded = load_llm(source), load_llm(source, dtype)
    llm: Any = loaded.model
    assert loaded.fingerprint == plain.fingerprint and loaded.packs and llm.dtype == torch.float32
    assert llm.is_loaded_in_4bit if dtype == "nf4" else llm.is_loaded_in_8bit
    assert type(llm.lm_head) is torch.nn.Linear and not any(p.requires_grad for p in llm.parameters())
    assert replaced_weights(llm) == replaced_weights(plain.model) == 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48)
    held = sum(p.nbytes for p in llm.parameters())
    for model in (llm, plain.model):
        assert weight_bytes(model, dtype, torch.float32) == pytest.approx(held, rel=0.02)
    assert weight_bytes(plain.model, "auto", torch.bfloat16) == sum(p.nbytes for p in plain.model.parameters()) // 2


def test_eight_bits_are_a_scale_a_row_and_products_in_the_inputs_dtype(source):
    layer: Any = load_llm(source, "int8").model.model.layers[0].mlp.down_proj
    wanted = load_llm(source).model.model.layers[0].mlp.down_proj.weight
    inputs = torch.eye(48, requires_grad=True)
    outputs = layer(inputs)  # the weights, expanded
    step = wanted.abs().max(1).values / 127
    assert ((outputs.T - wanted).abs() <= 0.51 * step[:, None] + 1e-3 * wanted.abs()).all()
    gradient = torch.autograd.grad(outputs, inputs, torch.eye(48, 32))[0]  # rows of the same weights
    torch.testing.assert_close(gradient[:32], outputs.detach().T)


def test_what_cannot_be_had_is_refused_in_one_line(source, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="nf4, and ZeRO-3 cannot shard quantised weights; use --deepspeed zero0"):
        require_quantisable("nf4", sharded=True)
    with pytest.raises(UserError, match="LLM dtype 'nf5' is not known, did you mean 'nf4'.*int8"):
        load_llm(source, "nf5")
    gpt2 = save_llm(tmp_path / "gpt2", "gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}, tiny_models(tmp_path)[1])
    with pytest.raises(UserError, match=r"\(gpt2\) has no linear layers to quantise; use model.llm_dtype: auto"):
        load_llm(gpt2, "nf4")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"in int8 needs bitsandbytes.*pip install 'slam-asr\[quant\]'"):
        load_llm("nowhere/at/all", "int8")
