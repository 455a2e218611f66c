"""The input embeddings of an LLM whose other weights are elsewhere: on a server that decodes from embeddings.

Only the embedding matrix is read from the checkpoint's safetensors files: 0.3 GB of a 7B LLM's 14 GB."""

import json
from typing import Any

import torch
from torch import Tensor, nn

from model.errors import UserError
from model.llm import Llm, computing_dtype, require_llm_type
from model.llm.bits import is_quantised
from model.loading import freeze, loading, place_to_open


class InputEmbeddings(nn.Module):
    """What SlamAsr asks of an LLM to build prompts: its configuration and its input embeddings."""

    served: Any = None  # searches in place of the LLM's own `generate`; set by decode/backend.py

    def __init__(self, config: Any, embed: nn.Module) -> None:
        super().__init__()
        self.config, self.embed = config, embed

    def get_input_embeddings(self) -> nn.Module:
        return self.embed


def load_embeddings(source: str, dtype: str = "auto", device: Any = "cpu", trust_remote_code: bool = False) -> Llm:
    """As `load_llm`, with InputEmbeddings for a model; the fingerprint lacks "weights", as most are not read. UserError
    for a checkpoint without safetensors, and for a quantised `dtype`."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if is_quantised(dtype):
        raise UserError(f"--llm-dtype {dtype} quantises an LLM in this process; vLLM has options of its own for that")
    with loading("LLM", source):
        place = place_to_open("LLM", source)
        config = AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code)
        require_llm_type(source, config)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        embed = model.get_input_embeddings()
        name = next(name for name, parameter in model.named_parameters() if parameter is embed.weight)
        weight = _stored(place, name, list(embed.weight.shape), source)
    with loading("LLM's tokenizer", source):
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code)
    embed.to_empty(device="cpu")
    if list(embed.buffers()):
        model._init_weights(embed)  # a scale of the embeddings (Gemma 3) is in no file
    embed.weight = nn.Parameter(weight, requires_grad=False)
    embed = freeze(embed).to(device=device, dtype=computing_dtype(dtype, device))
    identity = {"family": model.config.model_type, "dim": embed.embedding_dim, "vocabulary": len(tokenizer)}
    return Llm(InputEmbeddings(model.config, embed), tokenizer, identity, "it only has the LLM's input embeddings")


def _stored(place: str, name: str, shape: list[int], source: str) -> Tensor:
    """The tensor of the parameter `name`, in its stored dtype. Files may put another prefix before the name's last two
    parts, `embed_tokens.weight`, which tell the input embeddings from the output layer."""
    from safetensors import safe_open
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
    from transformers.utils.hub import cached_file

    index = cached_file(place, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False)
    files: dict[str, str] = {}
    if index is not None:
        with open(index, encoding="utf-8") as opened:
            files = json.load(opened)["weight_map"]
    else:
        whole = cached_file(place, SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False)
        if whole is None:
            raise UserError(f"LLM {source!r} has no safetensors files, of which --backend reads the embeddings alone")
        with safe_open(whole, "pt") as opened:
            files = dict.fromkeys(opened.keys(), SAFE_WEIGHTS_NAME)
    ending = "." + ".".join(name.split(".")[-2:])
    for key in sorted(files, key=lambda key: key != name):
        if f".{key}".endswith(ending):
            file = cached_file(place, files[key])
            assert file is not None
            with safe_open(file, "pt") as opened:
                if opened.get_slice(key).get_shape() == shape:
                    return opened.get_tensor(key)
    raise UserError(f"LLM {source!r}: no tensor of its files is the input embeddings {name} of shape {shape}")
