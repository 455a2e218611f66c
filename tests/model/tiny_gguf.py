"""Writes a Hugging Face Llama folder as a GGUF file, as llama.cpp's converter does."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file


@dataclass(frozen=True)
class OwnCache:
    """Given to a training as `before`: its ranks keep the folders of GGUF files in `folder`."""

    folder: str

    def __call__(self, rank: int) -> None:
        os.environ["SLAM_ASR_CACHE"] = self.folder


NAMES = {  # of a layer's weights
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
NORMAL, CONTROL = 1, 3  # kinds of tokens


def write_gguf(
    folder: Path, file: Path, tokenizer: bool = True, parts: int = 1, arch: str = "llama", add_bos: bool | None = None
) -> str:
    """The folder's Llama with float32 weights; returns the file's name."""
    from gguf import GGUFWriter

    config = json.loads((folder / "config.json").read_text())
    writer = GGUFWriter(file, arch)
    writer.add_name("tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    if parts > 1:
        writer.add_uint16("split.count", parts)
    if tokenizer:
        _add_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text()), add_bos)
    for name, weight in load_file(folder / "model.safetensors").items():
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
        writer.add_tensor(_named(name), _permuted(weight.float().numpy(), config[heads] if heads else None))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(file)


def _add_tokenizer(writer: Any, content: dict[str, Any], add_bos: bool | None) -> None:
    special = {token["content"] for token in content["added_tokens"]}
    vocabulary = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary)
    writer.add_token_types([CONTROL if token in special else NORMAL for token in vocabulary])
    writer.add_token_merges([" ".join(merge) for merge in content["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    writer.add_chat_template("{% for turn in messages %}<s>{{ turn.content }}</s>{% endfor %}<s>")


def _named(name: str) -> str:
    module = name.removesuffix(".weight")
    if module in OUTSIDE:
        return f"{OUTSIDE[module]}.weight"
    _, _, layer, inner = module.split(".", 3)
    return f"blk.{layer}.{NAMES[inner]}.weight"


def _permuted(weight: np.ndarray, heads: int | None) -> np.ndarray:
    """The rows of a query or key projection in llama.cpp's order for rotary positions."""
    if heads is None:
        return weight
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
