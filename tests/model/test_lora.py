"""LoRA: which layers it updates, that it begins as nothing, and that files, peft and a merged LLM compute the same."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from decode.export.adapter import export
from decode.export.merge import export_merged
from model.batch import pack
from model.errors import UserError
from model.llm import Llm, load_llm
from model.loading import freeze
from model.lora import LoraSpec, add_lora, find_targets, linear_layers, lora_parameters, merge_lora
from model.slam_asr import SlamAsr
from model.weights import load_for_decoding, read_adapter, read_card, save_adapter
from tests.model.test_weights import refusal
from tests.tiny import tiny_models, tiny_recogniser

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {"num_key_value_heads": 2}
FAMILIES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "llama": (GROUPED, ("q_proj", "v_proj")),
    "phi3": (GROUPED, ("qkv_proj",)),
    "gemma2": ({**GROUPED, "head_dim": 8}, ("q_proj", "v_proj")),
    "gpt2": ({"n_embd": 32, "n_layer": 2, "n_head": 4}, ("c_attn",)),
}


def tiny_llm(family: str, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 64} if family == "gpt2" else SIZES
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **sizes, **IDS, **FAMILIES[family][0])
    return freeze(AutoModelForCausalLM.from_config(config).to(dtype))


def logits(llm: Any) -> torch.Tensor:
    with torch.no_grad():
        return llm(input_ids=torch.arange(3, 12)[None], use_cache=False).logits[0].float()


def move(llm: Any) -> None:
    """Updates that change something."""
    generator = torch.Generator().manual_seed(2)
    for parameter in lora_parameters(llm).values():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("family", FAMILIES)
def test_updates_begin_as_nothing_in_float32_and_merge_into_the_same_logits(family):
    torch.manual_seed(0)
    following = torch.rand(1)
    first = {}
    for dtype in (torch.float32, torch.bfloat16):
        llm = tiny_llm(family, dtype)
        before, names = logits(llm), {name for name, _ in llm.named_parameters()}
        torch.manual_seed(0)
        add_lora(llm, LoraSpec(4, 8.0, find_targets(llm, ["auto"]), 0.1))
        assert torch.equal(logits(llm), before)
        first[dtype] = lora_parameters(llm)
        assert all(p.dtype == torch.float32 and p.requires_grad for p in first[dtype].values())
        assert len([p for p in llm.parameters() if p.requires_grad]) == len(first[dtype]) > 0
        move(llm)
        updated = logits(llm)
        assert (updated - before).norm() > 0.05 * before.norm()
        merge_lora(llm)
        assert {name for name, _ in llm.named_parameters()} == names
        error = (logits(llm) - updated).norm() / updated.norm()
        assert error < (1e-5 if dtype == torch.float32 else 5e-2)
    assert following != torch.rand(1), "A is drawn from torch's generator"
    assert all(torch.equal(*pair) for pair in zip(*(each.values() for each in first.values()), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_targets_are_the_llms_own_names_and_others_are_refused_with_the_nearest(family):
    llm = tiny_llm(family)
    auto, known = FAMILIES[family][1], {name.rpartition(".")[2] for name in linear_layers(llm)}
    assert find_targets(llm, ["auto"]) == auto and find_targets(llm, auto) == auto
    assert set(find_targets(llm, ["all-linear"])) == known and "lm_head" not in known
    message = refusal(find_targets, llm, [*auto, auto[0] + "s"])
    assert f"{auto[0]}s is no linear layer of this LLM, did you mean {auto[0]}?" in message
    assert f"its linear layers are {', '.join(sorted(known))}" in message


@pytest.mark.parametrize("dtype", ["int8", "nf4"])
def test_lora_beside_quantised_weights_is_float32_and_trained(tmp_path, dtype):
    llm = load_llm(str(tiny_models(tmp_path)[1]), dtype).model
    ids = torch.arange(3, 12)[None]
    before = llm(input_ids=ids, use_cache=False).logits
    add_lora(llm, LoraSpec(4, 8.0, find_targets(llm, ["auto"]), 0.0))
    torch.testing.assert_close(llm(input_ids=ids, use_cache=False).logits, before)
    move(llm)
    llm(input_ids=ids, use_cache=False).logits.square().sum().backward()
    for parameter in lora_parameters(llm).values():
        assert parameter.dtype == torch.float32 and parameter.grad is not None and parameter.grad.any()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[SlamAsr, Path]:
    """A recogniser with updates that count, and its export."""
    folder = tmp_path_factory.mktemp("made")
    plain, adapter = tiny_recogniser(folder)
    card, _ = read_adapter(adapter)
    spec = LoraSpec(4, 8.0, ("q_proj", "v_proj"), 0.2)
    add_lora(plain.llm, spec)
    move(plain.llm)
    model = SlamAsr(plain.encoder, plain.adapter, Llm(plain.llm, plain.prompt.tokenizer, {}), plain.prompt).eval()
    (folder / "with lora").mkdir()
    save_adapter(folder / "with lora", {**model.trained}, replace(card, lora=spec))
    return model, folder / "with lora"


def batch_of(model: SlamAsr) -> Any:
    texts, generator = ["the cat", "a mat on it"], torch.Generator().manual_seed(1)
    waves = [0.1 * torch.randn(count, generator=generator) for count in (9_000, 16_000)]
    return pack(["a", "b"], texts, [model.prompt.target_ids(text) for text in texts], waves=waves)


def gradients(model: SlamAsr) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(batch_of(model)).loss.backward()
    assert all(p.grad is None for name, p in model.named_parameters() if not p.requires_grad)
    return {name: p.grad.clone() for name, p in model.trained.items() if p.grad is not None}


def test_gradients_of_adapter_and_lora_keep_their_scale_under_loss_scaling_and_padding(made):
    model, _ = made
    assert model.layout == "packed" and [name for name in model.trained if not name.startswith("lora.")] == [
        *dict(model.adapter.named_parameters())
    ]
    assert "lora.model.layers.1.self_attn.v_proj.lora_B.weight" in model.trained
    plain = gradients(model)
    assert plain.keys() == model.trained.keys() and all(gradient.abs().sum() > 0 for gradient in plain.values())
    try:
        model.gradient_scale = 2.0**12
        scaled = gradients(model)
        model.gradient_scale, model.layout = 1.0, "padded"
        padded = gradients(model)
    finally:
        model.gradient_scale, model.layout = 1.0, "packed"
    for name, gradient in plain.items():
        assert torch.equal(scaled[name], gradient), name
        torch.testing.assert_close(padded[name], gradient, rtol=1e-3, atol=1e-3)


def test_dropout_of_lora_follows_training_and_nothing_else_of_the_llm_does(made):
    model, _ = made
    batch, still = batch_of(model), model(batch_of(model)).loss
    model.train()
    training = [name for name, module in model.llm.named_modules() if module.training]
    one, other = (model(batch).loss for _ in range(2))
    model.eval()
    assert training and all("lora_dropout" in name for name in training)
    assert not torch.equal(one, other) and torch.equal(model(batch).loss, still)


def test_what_is_saved_decodes_and_peft_opens_its_export(made, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, folder = made
    assert sorted(path.name for path in folder.iterdir()) == ["adapter.json", "adapter.safetensors", "lora.safetensors"]
    card, weights = read_adapter(folder)
    assert card.lora == LoraSpec(4, 8.0, ("q_proj", "v_proj"), 0.2) and weights.keys() == model.trained.keys()
    export(folder, tmp_path / "export")
    assert export(folder, tmp_path / "export").lora == card.lora
    loaded = load_for_decoding(tmp_path / "export")
    assert torch.equal(loaded(batch_of(model)).loss, model(batch_of(model)).loss)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(card.llm_source), tmp_path / "export/lora")
    torch.testing.assert_close(logits(theirs.eval()), logits(model.llm), rtol=1e-5, atol=1e-5)


def test_damaged_or_missing_lora_is_refused(made, tmp_path):
    folder = Path(shutil.copytree(made[1], tmp_path / "export"))
    stated, data = (
        json.loads((folder / "adapter.json").read_text()),
        bytearray((folder / "lora.safetensors").read_bytes()),
    )
    data[-1] ^= 1
    (folder / "lora.safetensors").write_bytes(data)
    assert "lora.safetensors does not match the sha256" in refusal(load_for_decoding, folder)
    (folder / "lora.safetensors").unlink()
    assert "no lora.safetensors in" in refusal(load_for_decoding, folder)
    (folder / "adapter.json").write_text(json.dumps(stated | {"lora": stated["lora"] | {"rank": "4"}}))
    assert "rank is '4'" in refusal(read_card, folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merged_llm_is_an_ordinary_one_and_its_adapter_needs_no_lora(made, tmp_path, dtype):
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model, folder = made
    card, weights = read_adapter(folder)
    if dtype == "bfloat16":
        plain = AutoModelForCausalLM.from_pretrained(card.llm_source, dtype=torch.bfloat16)
        plain.save_pretrained(tmp_path / "half")
        model.prompt.tokenizer.save_pretrained(tmp_path / "half")
        llm = load_llm(str(tmp_path / "half"))
        folder = tmp_path / "of half"
        folder.mkdir()
        save_adapter(folder, weights, replace(card, llm=llm.fingerprint, llm_source=str(tmp_path / "half")))
    merged, line = export_merged(folder, tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "out")  # the LLM is found where the folder is moved to
    assert "LoRA changes the LLM's logits by" in line
    assert {tensor.dtype for tensor in load_file(tmp_path / "out/llm/model.safetensors").values()} == {
        getattr(torch, dtype)
    }
    assert "packed" not in (tmp_path / "out/llm/config.json").read_text()
    assert merged.lora is None and read_card(tmp_path / "out").llm_path == "llm"
    assert f"step 7, `{read_card(folder).digest}`" in (tmp_path / "out/README.md").read_text()
    assert sorted(path.name for path in (tmp_path / "out").glob("adapter.*")) == ["adapter.json", "adapter.safetensors"]
    loaded, unmerged = load_for_decoding(tmp_path / "out"), load_for_decoding(folder)
    batch = batch_of(model)
    torch.testing.assert_close(
        loaded(batch).loss, unmerged(batch).loss, rtol=1e-5 if dtype == "float32" else 2e-2, atol=0
    )
    export_merged(folder, tmp_path / "exact", llm_dtype="float32")
    exact = load_for_decoding(tmp_path / "exact")
    torch.testing.assert_close(exact(batch).loss, unmerged(batch).loss, rtol=1e-5, atol=0)
    assert "is there already" in refusal(export_merged, folder, tmp_path / "out")
    assert "has no LoRA to merge" in refusal(export_merged, tmp_path / "out", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_without_peft_lora_is_refused_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"LoRA needs peft, .*pip install 'slam-asr\[lora\]'"):
        add_lora(tiny_llm("llama"), LoraSpec(4, 8.0, ("q_proj",), 0.0))
