"""Frozen LLM weights quantised to 4 or 8 bits by bitsandbytes: NF4 (QLoRA, arXiv 2305.14314) and int8, with one scale
per row.

Only the linear layers of the LLM's body are replaced; embeddings, norms and output layer are not. Everything is
computed in the LLM's ordinary dtype: a layer's weights are dequantised for its product in the forward pass, and again
in the backward pass, so neither they nor the layer's input are kept in between. Activations are not quantised (as
LLM.int8() would), so that an utterance's logits do not depend on the others of its batch."""

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from model.errors import UserError

BYTES_A_WEIGHT = {"nf4": 0.516, "int8": 1.0}
"""Of a quantised layer: for NF4 four bits a weight, 8 more for 64 weights and 32 for 16,384 (double quantisation)."""
INT8_MOST = 127.0


def is_quantised(dtype: str) -> bool:
    """Whether this `model.llm_dtype` is a quantised one."""
    return dtype in BYTES_A_WEIGHT


def require_quantisable(dtype: str, sharded: bool = False) -> None:
    """UserError if the LLM cannot be quantised: without bitsandbytes, or with ZeRO-3, which shards floats only."""
    if sharded:
        raise UserError(
            f"model.llm_dtype is {dtype}, and ZeRO-3 cannot shard quantised weights; use --deepspeed zero0, or "
            "model.llm_dtype: bfloat16"
        )
    _bitsandbytes(dtype)


def _bitsandbytes(dtype: str) -> Any:
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # recommends a package on some CPUs
    try:
        import bitsandbytes
    except ImportError:
        raise UserError(
            f"an LLM in {dtype} needs bitsandbytes, which is not installed: pip install 'slam-asr[quant]'"
        ) from None
    return bitsandbytes


def replaced_weights(model: Any) -> int:
    """Number of weights that quantisation replaces, or has replaced: those of the linear layers of an LLM's body."""
    return sum(layer.in_features * layer.out_features for _, layer in _linear_layers(model))


def weight_bytes(model: Any, dtype: str, computed: torch.dtype) -> int:
    """Bytes of an LLM's weights if `dtype` is requested and it computes in `computed`; `model` may be on the meta
    device, or quantised already."""
    layers = [layer for _, layer in _linear_layers(model)] if is_quantised(dtype) else []
    others = sum(p.numel() for p in model.parameters()) - sum(layer.weight.numel() for layer in layers)
    return int(others * computed.itemsize + BYTES_A_WEIGHT.get(dtype, 0) * replaced_weights(model) * bool(layers))


def require_linear_layers(model: Any, source: str) -> None:
    """UserError for an LLM without linear layers; it may be without storage."""
    if not _linear_layers(model):
        kind = model.config.model_type
        raise UserError(f"LLM {source!r} ({kind}) has no linear layers to quantise; use model.llm_dtype: auto")


def quantise(model: Any, dtype: str, device: Any, source: str) -> None:
    """Replaces the linear layers of the body, whose weights are in their stored dtype on the CPU, by quantised layers
    on `device`, one at a time. UserError for an LLM that has none."""
    require_linear_layers(model, source)
    bnb = _bitsandbytes(dtype)
    for name, linear in _linear_layers(model):
        parent, _, attribute = name.rpartition(".")
        setattr(model.base_model.get_submodule(parent), attribute, _quantised(bnb, linear, dtype, device))
    setattr(model, "is_loaded_in_4bit" if dtype == "nf4" else "is_loaded_in_8bit", True)  # peft checks these


def _linear_layers(model: Any) -> list[tuple[str, nn.Linear]]:
    head, modules = model.get_output_embeddings(), model.base_model.named_modules()
    return [(name, layer) for name, layer in modules if isinstance(layer, nn.Linear) and layer is not head]


def _quantised(bnb: Any, linear: nn.Linear, dtype: str, device: Any) -> nn.Module:
    sizes = {"input_features": linear.in_features, "output_features": linear.out_features, "bias": False}
    with torch.device("meta"):
        if dtype == "nf4":
            layer = bnb.nn.LinearNF4(**sizes)
            weight = bnb.nn.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4", module=layer)
            layer.support_avx512bf16_for_cpu = False  # its weight layout, built in eval mode, supports no gradients
        else:
            layer = _int8_class(bnb)(**sizes, has_fp16_weights=False)
            weight = bnb.nn.Int8Params(linear.weight.data, requires_grad=False)
    layer.weight = weight.to(device)
    layer.bias = linear.bias
    return layer.requires_grad_(False).eval()


@cache
def _int8_class(bnb: Any) -> Any:
    class Int8Linear(bnb.nn.Linear8bitLt):
        """bitsandbytes' Linear8bitLt, a class that peft recognises, with products in the input's dtype."""

        def forward(self, x: Tensor) -> Tensor:
            if self.weight.CB is not None:
                self.init_8bit_state()
            product = _Int8Product.apply(x, self.state.CB, self.state.SCB)
            return product if self.bias is None else product + self.bias.to(x.dtype)  # pyright: ignore

    return Int8Linear


class _Int8Product(torch.autograd.Function):
    """input [..., I] times codes [O, I] with scale [O] -> [..., O]; only the input has a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(codes, scale)
        return x @ _expanded(codes, scale, x.dtype).T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        codes, scale = ctx.saved_tensors
        return gradient @ _expanded(codes, scale, gradient.dtype), None, None


def _expanded(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return codes.to(dtype) * (scale[:, None] / INT8_MOST).to(dtype)
