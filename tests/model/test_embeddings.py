"""The input embeddings alone are those of the whole LLM, wherever its files keep them, and nothing else is read."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from model.errors import UserError
from model.llm import load_llm
from model.llm.embeddings import load_embeddings
from tests.tiny import tiny_models


def test_they_and_the_fingerprint_are_those_of_the_whole_llm(tmp_path):
    _, folder = tiny_models(tmp_path)
    whole, alone = load_llm(str(folder)), load_embeddings(str(folder))
    ids = torch.arange(9)
    assert torch.equal(alone.model.get_input_embeddings()(ids), whole.model.get_input_embeddings()(ids))
    assert alone.fingerprint == {name: value for name, value in whole.fingerprint.items() if name != "weights"}
    assert sum(p.numel() for p in alone.model.parameters()) == whole.model.get_input_embeddings().weight.numel()
    assert load_embeddings(str(folder), "bfloat16").model.embed.weight.dtype == torch.bfloat16
    assert not alone.packs and not alone.model.embed.weight.requires_grad


def test_shards_other_prefixes_and_scaled_embeddings(tmp_path):
    """Gemma 3 multiplies its embeddings by a constant that is in no file."""
    _, folder = tiny_models(tmp_path)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model("gemma3_text", **sizes, head_dim=16, num_key_value_heads=1, vocab_size=300)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    [key] = [name for name in tensors if "embed_tokens" in name]
    save_file({f"language_model.{key}": tensors.pop(key)}, folder / "b.safetensors")
    (folder / "a.safetensors").write_bytes(b"not read")
    names = dict.fromkeys(tensors, "a.safetensors") | {f"language_model.{key}": "b.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    ids = torch.arange(9)
    assert torch.equal(load_embeddings(str(folder)).model.embed(ids), model.get_input_embeddings()(ids))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "b")}))
    with pytest.raises(UserError, match=r"no tensor of its files is the input embeddings .* of shape \[300, 32\]"):
        load_embeddings(str(folder))
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(UserError, match="has no safetensors files, of which --backend reads the embeddings alone"):
        load_embeddings(str(folder))
