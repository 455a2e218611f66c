"""The LLM's input, `prefix | speech | suffix | answer`, the same in training and generation: where everything is, and
attention inside each utterance.

Utterances lie end to end in one row (packed), or one in a row, padded on the left. A place is an index into the flat
input: of all tokens when packed, of B x S when padded.

transformers calls the attention function that a model's config names. The one registered here, "packed", is
transformers' own `sdpa` (padding masks, caches, beams) unless a forward gets `packing=`. Then each utterance attends to
itself alone: on a GPU by one FlashAttention call for variable lengths (torch.nn.attention.varlen), elsewhere by one
`sdpa` call for each utterance. Both are exact. `packing` is passed down to the attention as an argument, so that no
state is kept: it is safe in threads and in recomputation.

B utterances, S width of the padded input, T tokens or frames of all utterances, h heads, d width of one."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.batch import cumulative

PACKED = "packed"
SHORT = 400
"""Tokens of an utterance up to which it attends in float32 on a CPU, whatever its dtype: backward in bfloat16 takes
PyTorch three times as long at 50 tokens, as long at 400 (`python -m bench.attention`), and forward no less. Without
gradients too: activation checkpointing computes a layer once without and once with them, and both must be the same."""
ALTERATIONS = ("softcap", "s_aux", "position_bias", "head_mask")  # of attention, which no kernel here implements


@dataclass(frozen=True)
class Layout:
    """Places of every part of the input; all tensors int64 on the CPU."""

    lengths: Tensor  # [B], of each utterance's input
    size: int  # places in all
    prefix: Tensor  # [B x prefix length]
    speech: Tensor  # [sum of speech lengths]
    suffix: Tensor  # [B x suffix length]
    answer: Tensor  # [sum of answer lengths], the answer tokens that are fed in
    predicting: Tensor  # [sum of answer lengths + B], where the answer's tokens and its end are predicted

    @property
    def width(self) -> int:
        """S, the length of the longest utterance."""
        return int(self.lengths.max())

    @property
    def mask(self) -> Tensor:
        """[B, S] of the padded input, 1 for input."""
        return (torch.arange(self.width)[None] >= self.width - self.lengths[:, None]).to(torch.int64)

    @property
    def positions(self) -> Tensor:
        """[size] of the packed input: each token's position in its own utterance."""
        return _runs(torch.zeros_like(self.lengths), self.lengths)


def lay_out(prefix: int, speech: Tensor, suffix: int, answer: Tensor, padded: bool) -> Layout:
    """The layout for B utterances with `speech` [B] embeddings and `answer` [B] fed-in answer tokens each."""
    lengths = prefix + speech + suffix + answer
    ends = torch.arange(1, len(lengths) + 1) * lengths.max() if padded else lengths.cumsum(0)
    after_suffix = ends - answer
    after_speech = after_suffix - suffix
    after_prefix = after_speech - speech
    return Layout(
        lengths=lengths,
        size=int(ends[-1]),
        prefix=_runs(after_prefix - prefix, torch.full_like(ends, prefix)),
        speech=_runs(after_prefix, speech),
        suffix=_runs(after_speech, torch.full_like(ends, suffix)),
        answer=_runs(after_suffix, answer),
        predicting=_runs(after_suffix - 1, answer + 1),
    )


def _runs(starts: Tensor, lengths: Tensor) -> Tensor:
    """starts [B], lengths [B] -> the integers of every run [start, start + length), end to end."""
    offsets = torch.arange(int(lengths.sum())) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    return torch.repeat_interleave(starts, lengths) + offsets


@dataclass(frozen=True)
class PackedLengths:
    """The lengths of the utterances in a packed row."""

    lengths: list[int]  # on the CPU, so that nothing is read back from an accelerator
    cu: Tensor  # cumulative lengths, int32 [B + 1] on the device that computes


def packed_lengths(lengths: Tensor, device: torch.device) -> PackedLengths:
    """From lengths, int64 [B] on the CPU; made once for all layers."""
    return PackedLengths(lengths.tolist(), cumulative(lengths).to(device, torch.int32, non_blocking=True))


def switch_to_packed(model: Any) -> str | None:
    """Makes `model` accept `packing=`; else the reason why it cannot. Then the model is unchanged, except that soft-
    capped attention logits (Gemma 2), which `sdpa` silently leaves out, are switched to `eager` attention."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    config = model.config
    if getattr(config.get_text_config(), "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")
        return "it soft-caps its attention logits, which only transformers' 'eager' attention supports"
    if config._attn_implementation != "sdpa":
        return f"its attention is transformers' {config._attn_implementation!r}, not 'sdpa'"
    if not model._can_set_attn_implementation() or not model._supports_flash_attn:
        return "it does not use transformers' common attention interface"
    if getattr(config, "attention_chunk_size", None):
        return "its attention is cut into chunks"
    ALL_ATTENTION_FUNCTIONS.register(PACKED, packed_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(PACKED, sdpa_mask)
    model.set_attn_implementation(PACKED)
    return None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: PackedLengths | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """query [1, h, T, d], key and value [1, h or fewer, T, d] -> [1, T, h, d], each utterance by itself, whatever
    `attention_mask` says; without `packing` it is `sdpa`. ValueError for options that are not implemented."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    causal = options.pop("is_causal", None)
    causal = getattr(module, "is_causal", True) if causal is None else causal
    missing = [name for name in ALTERATIONS if options.get(name) is not None]
    missing += ["dropout"] * bool(options.get("dropout"))
    missing += ["window to both sides"] * bool(sliding_window and not causal)
    if missing:
        raise ValueError(f"packed attention has no {', '.join(missing)}")
    if _kernel_takes(query, value):
        return _varlen(query, key, value, packing, causal, sliding_window, options.get("scaling")), None
    attended = []
    for q, k, v in zip(*(part.split(packing.lengths, dim=2) for part in (query, key, value)), strict=True):
        window = None
        if sliding_window and q.shape[2] > sliding_window:
            place = torch.arange(q.shape[2], device=q.device)
            distance = place[:, None] - place
            window = (distance >= 0) & (distance < sliding_window)
        if q.device.type == "cpu" and q.shape[2] <= SHORT:
            q, k, v = q.float(), k.float(), v.float()
        own, _ = sdpa_attention_forward(module, q, k, v, window, is_causal=causal, **options)
        attended.append(own.to(query.dtype))
    return torch.cat(attended, dim=1), None


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, packing: PackedLengths, causal: bool, window: int | None, scale: Any
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    before = window - 1 if window else -1  # transformers counts the token itself, the kernel does not
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))  # [T, h, d]
    lengths = (packing.cu, packing.cu, max(packing.lengths), max(packing.lengths))
    attended = varlen_attn(q, k, v, *lengths, scale=scale, window_size=(before, 0 if causal else -1))
    assert isinstance(attended, Tensor)
    return attended[None]


def _kernel_takes(query: Tensor, value: Tensor) -> bool:
    """FlashAttention 2: an Ampere GPU or newer, half precision, heads of one width that is a multiple of 8 up to 256.
    Tensors without storage are computed as on such a GPU."""
    if query.is_meta:
        return True
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
        return False
    width = query.shape[-1]
    fits = width == value.shape[-1] and width % 8 == 0 and width <= 256
    return fits and torch.cuda.get_device_capability(query.device) >= (8, 0)
