"""Floating-point operations of what is computed, counted from the models' own configurations.

A multiply-add is two. Only matrix products and convolutions count. Every function takes one length or an array of them.
For HuBERT-XL they give 108 GFLOP a second of audio at 12.3 s, for TinyLlama forward and backward 60.
"""

from typing import Any

import numpy as np

from model.adapters import AdapterSpec

Lengths = Any
"""An int, or an integer array."""


def encoder_flops(config: Any, samples: Lengths) -> Lengths:
    """One forward pass of a HuBERT over an utterance of `samples`."""
    total, length, width = 0, np.asarray(samples, np.int64), 1
    for channels, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        length = (length - kernel) // stride + 1
        total = total + 2 * length * channels * width * kernel
        width = channels
    hidden, layers = config.hidden_size, config.num_hidden_layers
    position = config.num_conv_pos_embeddings * hidden * hidden // config.num_conv_pos_embedding_groups
    weights = width * hidden + position + layers * (4 * hidden**2 + 2 * hidden * config.intermediate_size)
    return total + 2 * length * weights + 4 * layers * hidden * length**2


def llm_flops(config: Any, tokens: Lengths, targets: Lengths) -> Lengths:
    """A Llama, forward and backward to its input alone: no weight asks for a gradient.

    `targets` of the `tokens` positions pass through the head. Attention is causal: half of the square.
    """
    tokens = np.asarray(tokens, np.int64)
    attention = 3 * config.num_hidden_layers * 2 * _queries(config) * tokens**2
    head = 4 * config.vocab_size * config.hidden_size * targets
    return 4 * tokens * llm_weights(config) + attention + head


def llm_weights(config: Any) -> int:
    """The weights of a Llama's layers, without embedding and head."""
    hidden, queries, heads = config.hidden_size, _queries(config), config.num_attention_heads
    keys = queries * (getattr(config, "num_key_value_heads", None) or heads) // heads
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    layer = 2 * hidden * queries + 2 * hidden * keys + 3 * hidden * inner
    return layer * config.num_hidden_layers


def _queries(config: Any) -> int:
    """Width of all heads together, which need not be that of the layer."""
    heads = config.num_attention_heads
    return heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)


def adapter_flops(spec: AdapterSpec, speech: Lengths) -> Lengths:
    """Forward and backward for `speech` embeddings; the frames themselves need no gradient."""
    first, second = spec.stack * spec.encoder_dim * spec.hidden, spec.hidden * spec.llm_dim
    return np.asarray(speech, np.int64) * (4 * first + 6 * second)
