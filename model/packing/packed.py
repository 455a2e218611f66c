"""Attention over utterances that lie end to end in one row, unpadded.

transformers calls whatever attention function a model's config names. The one registered here, "packed", is
transformers' own `sdpa` (padding masks, caches, beams) until a forward is given `packing=`. Then the row is cut at the
utterances' ends: each attends to itself alone. On a GPU that is one call of the FlashAttention kernel for lengths that
vary (torch.nn.attention.varlen), elsewhere one `sdpa` call for each utterance; both are exact, and nothing is padded.

`packing` travels down to the attention as an argument, so no state is kept: it is safe in threads and in recomputation.
T tokens or frames of all utterances, h heads, d width of one.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.batch import cumulative

PACKED = "packed"
ALTERATIONS = ("softcap", "s_aux", "position_bias", "head_mask")
"""What some models ask of their attention function and no kernel used here does."""


@dataclass(frozen=True)
class Packing:
    """Where the utterances of a packed row end."""

    lengths: list[int]
    """Of each utterance, known on the CPU: nothing is read back from an accelerator."""
    cu: Tensor
    """Cumulative lengths, int32 [B + 1] on the device that computes."""


def packing_of(lengths: Tensor, device: torch.device) -> Packing:
    """The packing of utterances of these lengths, int64 [B] on the CPU; made once for all layers."""
    return Packing(lengths.tolist(), cumulative(lengths).to(device, torch.int32, non_blocking=True))


def switch_to_packed(model: Any) -> str | None:
    """Makes `model` take `packing=`; or the reason why it cannot, and the model is as before."""
    config = model.config
    if config._attn_implementation != "sdpa":
        return f"its attention is transformers' {config._attn_implementation!r}, not 'sdpa'"
    if not model._can_set_attn_implementation() or not model._supports_flash_attn:
        return "its attention is code of its own"
    if getattr(config, "attention_chunk_size", None):
        return "its attention is cut into chunks"
    _register()
    model.set_attn_implementation(PACKED)
    return None


def _register() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(PACKED, packed_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(PACKED, sdpa_mask)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """query [1, h, T, d], key and value [1, h or fewer, T, d] -> [1, T, h, d], each utterance by itself.

    Without `packing` it is `sdpa`. With it `attention_mask` is not looked at; ValueError for what would alter attention
    in a way that is not implemented.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    causal = options.pop("is_causal", None)
    causal = getattr(module, "is_causal", True) if causal is None else causal
    asked = [name for name in ALTERATIONS if options.get(name) is not None]
    asked += ["dropout"] * bool(options.get("dropout")) + ["window to both sides"] * bool(sliding_window and not causal)
    if asked:
        raise ValueError(f"packed attention has no {', '.join(asked)}")
    if _kernel_takes(query, value):
        return _one_kernel(query, key, value, packing, causal, sliding_window, options.get("scaling")), None
    attended = []
    for q, k, v in zip(*(part.split(packing.lengths, dim=2) for part in (query, key, value)), strict=True):
        window = _window(q.shape[2], sliding_window, q.device)
        attended.append(sdpa_attention_forward(module, q, k, v, window, is_causal=causal, **options)[0])
    return torch.cat(attended, dim=1), None


def _one_kernel(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, causal: bool, window: int | None, scale: float | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    before = window - 1 if window else -1  # transformers counts the place itself, the kernel does not
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))  # [T, h, d]
    longest = max(packing.lengths)
    attended = varlen_attn(
        q, k, v, packing.cu, packing.cu, longest, longest, scale=scale, window_size=(before, 0 if causal else -1)
    )
    assert isinstance(attended, Tensor)
    return attended[None]


def _kernel_takes(query: Tensor, value: Tensor) -> bool:
    """FlashAttention 2: an Ampere GPU or newer, half precision, heads of one width that is a multiple of 8 up to 256.

    Fewer key and value heads than query heads are fine. Tensors without storage are computed as on such a GPU.
    """
    if query.is_meta:
        return True
    width = query.shape[-1]
    return (
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and width == value.shape[-1]
        and width % 8 == 0
        and width <= 256
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def _window(length: int, size: int | None, device: torch.device) -> Tensor | None:
    """The causal mask bool [length, length] of the `size` last places, itself included; None where all are seen."""
    if not size or length <= size:
        return None
    place = torch.arange(length, device=device)
    distance = place[:, None] - place
    return (distance >= 0) & (distance < size)
