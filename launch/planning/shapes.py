"""What a plan must know of encoder, LLM and adapter, from their configurations alone: no weight is read or made."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from model.adapter import AdapterSpec, build_adapter
from model.encoders import ENCODERS, HubertEncoder, require_encoder_family
from model.errors import UserError
from model.hub import why_not_on_hub
from model.llm import require_llm_type
from model.pretrained import choose_dtype
from model.sample_rate import SAMPLE_RATE
from train.config import AdapterConfig, ModelConfig

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
    heard = _read_config("encoder", model.encoder, model.trust_remote_code)
    require_encoder_family(model.encoder, heard.model_type)
    words = _read_config("LLM", model.llm, model.trust_remote_code)
    require_llm_type(model.llm, words)
    dtype = torch.bfloat16 if model.dtype == "auto" else choose_dtype(model.dtype, "cpu")
    return shapes_of(heard, words, model.adapter, dtype, model.encoder_layer, model.trust_remote_code)


def _read_config(what: str, source: str, trust_remote_code: bool) -> Any:
    """Of a folder, of the hub's cache or of the hub, in this order; without the hub's lines about every new attempt."""
    from huggingface_hub.utils import logging
    from transformers import AutoConfig

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with _reading(what, source):
            try:
                return AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code, local_files_only=True)
            except OSError:
                if reason := why_not_on_hub(source):
                    raise OSError(reason) from None
                return AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    finally:
        logging.set_verbosity(verbosity)


def shapes_of(
    encoder: Any,
    llm: Any,
    adapter: AdapterConfig,
    dtype: torch.dtype,
    layer: str | None = None,
    trust_remote_code: bool = False,
) -> Shapes:
    """Of transformers configurations and an adapter between them; the models are made without storage."""
    from transformers import AutoModel, AutoModelForCausalLM

    with torch.device("meta"), _reading("encoder", str(encoder.model_type)):
        heard = AutoModel.from_config(encoder, trust_remote_code=trust_remote_code)
    with torch.device("meta"), _reading("LLM", str(llm.model_type)):
        words = AutoModelForCausalLM.from_config(llm, trust_remote_code=trust_remote_code)
    a, width = adapter, words.get_input_embeddings().embedding_dim
    spec = AdapterSpec(a.type, a.stack, a.hidden, a.dropout, encoder.hidden_size, width)
    with torch.device("meta"):
        trained = build_adapter(spec)
    heard = ENCODERS[encoder.model_type](heard, SAMPLE_RATE, True, layer, "")
    return Shapes(_encoder(heard), _llm(words), spec, _count(trained), trained.out_len, dtype)


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


@contextmanager
def _reading(what: str, source: str) -> Iterator[None]:
    """Whatever the libraries answer to a configuration that is not there becomes one line."""
    try:
        yield
    except Exception as error:  # anything from OSError to TypeError, as in model/pretrained.py
        if isinstance(error, (UserError, MemoryError)):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        todo = (
            f"only its config.json is needed: give model.{what.lower()}=FOLDER that holds one, or fetch it with "
            f"`hf download {source} config.json`"
        )
        if "trust_remote_code" in str(error):
            todo = "it runs code of its own; set model.trust_remote_code=true only if you trust it"
        raise UserError(f"cannot read the configuration of the {what} {source!r}: {reason}; {todo}") from error
