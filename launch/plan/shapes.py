"""What a plan must know of encoder, LLM and adapter, from their configurations alone: no weight is read or made."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from model.adapter import AdapterSpec
from model.encoders import HubertEncoder
from model.loading.pretrained import choose_dtype
from model.skeleton import meta_models, read_config
from train.recipe.config import AdapterConfig, ModelConfig

COMPARED = ("llama", "mistral", "qwen2", "qwen3")
"""Families whose layers are those that memory.py describes and tests compare with what is kept."""


@dataclass(frozen=True)
class LlmShape:
    """A causal transformer of L layers."""

    whole: Any
    """Its configuration as it is opened."""
    config: Any
    """The part of it that is about text."""
    parameters: int
    layers: int
    hidden: int
    inner: int
    """Width of the MLP."""
    gated: bool
    """Whether the MLP is down(act(gate) * up), and keeps three of its width; else it keeps one."""
    query: int
    """Heads x width of a head."""
    keys: int
    """The same of the keys' (and values') heads."""
    heads: int
    head_dim: int
    rms_width: int
    """Values that all RMS norms together normalise, a token."""
    rms_count: int
    """Means of squares that they make, a token."""
    norm_width: int
    """Values that all LayerNorms together normalise, a token."""
    vocabulary: int

    @property
    def family(self) -> str:
        return self.config.model_type


@dataclass(frozen=True)
class EncoderShape:
    """Convolutions, then a transformer."""

    config: Any
    """With as many layers as are read; those above them are not held."""
    parameters: int
    hidden: int
    inner: int
    channels: int
    """Of the first convolution, which has the most frames."""
    copies: int
    """Of the first convolution's output that are there at a time: in and out of its norm, and a third where that is
    taken over channels, which have to be brought together first."""
    downsampling: int
    """Samples a frame."""
    first_stride: int
    frames_of: Callable[[Any], Any]
    """Frames of so many samples."""


@dataclass(frozen=True)
class Shapes:
    """All parts of a recogniser."""

    encoder: EncoderShape
    llm: LlmShape
    adapter: AdapterSpec
    adapter_parameters: int
    speech_of: Callable[[Any], Any]
    """Speech embeddings of so many frames."""
    dtype: torch.dtype
    """Of the frozen parts."""


def read_shapes(model: ModelConfig) -> Shapes:
    """Of a recipe's models, by their config.json. `auto` is bfloat16: a plan is for GPUs that compute it.

    UserError where a configuration is not there, or is of an encoder that we do not have.
    """
    encoder = read_config("encoder", model.encoder, model.trust_remote_code)
    llm = read_config("LLM", model.llm, model.trust_remote_code)
    dtype = torch.bfloat16 if model.dtype == "auto" else choose_dtype(model.dtype, "cpu")
    return shapes_of(encoder, llm, model.adapter, dtype, model.encoder_layer, model.trust_remote_code)


def shapes_of(
    encoder: Any,
    llm: Any,
    adapter: AdapterConfig,
    dtype: torch.dtype,
    layer: str | None = None,
    trust_remote_code: bool = False,
) -> Shapes:
    """Of transformers configurations and an adapter between them; the models are made without storage."""
    a = adapter
    models = meta_models(encoder, llm, (a.type, a.stack, a.hidden, a.dropout), layer, trust_remote_code)
    trained = models.adapter
    return Shapes(_encoder(models.encoder), _llm(models.llm), trained.spec, _count(trained), trained.out_len, dtype)


def _encoder(encoder: HubertEncoder) -> EncoderShape:
    config = copy.deepcopy(encoder.model.config)
    config.num_hidden_layers = encoder.layers.last
    return EncoderShape(
        config=config,
        parameters=_count(encoder),
        hidden=encoder.dim,
        inner=config.intermediate_size,
        channels=config.conv_dim[0],
        copies=3 if config.feat_extract_norm == "layer" else 2,
        downsampling=math.prod(config.conv_stride),
        first_stride=config.conv_stride[0],
        frames_of=encoder.out_len,
    )


def _llm(model: Any) -> LlmShape:
    config = model.config.get_text_config()
    hidden, heads = config.hidden_size, config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    norms = [_norm(name, module, heads, key_heads) for name, module in model.named_modules() if _is_norm(module)]
    rms = [(width, count) for kind, width, count in norms if kind == "rms"]
    return LlmShape(
        whole=model.config,
        config=config,
        parameters=_count(model),
        layers=config.num_hidden_layers,
        hidden=hidden,
        inner=getattr(config, "intermediate_size", None) or 4 * hidden,
        gated=any("gate_proj" in name or "gate_up_proj" in name for name, _ in model.named_parameters()),
        query=heads * head_dim,
        keys=key_heads * head_dim,
        heads=heads,
        head_dim=head_dim,
        rms_width=sum(width for width, _ in rms),
        rms_count=sum(count for _, count in rms),
        norm_width=sum(width for kind, width, _ in norms if kind == "layer"),
        vocabulary=model.get_output_embeddings().out_features,
    )


def _is_norm(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Norm") and getattr(module, "weight", None) is not None


def _norm(name: str, module: Any, heads: int, key_heads: int) -> tuple[str, int, int]:
    """Its kind, the values that it normalises and the means that it makes, a token; one of queries or keys, by head."""
    times = heads if name.endswith("q_norm") else key_heads if name.endswith("k_norm") else 1
    return "layer" if isinstance(module, nn.LayerNorm) else "rms", times * module.weight.numel(), times


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
