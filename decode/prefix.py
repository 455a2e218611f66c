"""Keys and values of the common part of the prompts, computed once per batch.

The words before the speech, the prefix, are the same for every utterance, and an utterance's whole prompt is the same
for its beams. So the LLM computes the prefix once per batch and, for beam search, the rest once per utterance;
`generate` continues from this cache. With the columns in this order,

    prefix | padding | speech | suffix          instead of          padding | prefix | speech | suffix

the prefix has the same columns in every row, so all rows can start from one cache. Positions follow from the mask, and
are the same in both orders.

B utterances, S width of the prompts, P length of the prefix, H width of the LLM."""

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor

LEAST_PREFIX = 8
"""Tokens; a shorter prefix is not shared, as the extra forward pass costs as much (`python -m bench.decoding`)."""


class Prompts(NamedTuple):
    """The prompts of a batch."""

    embeds: Tensor  # [B, S, H], padding on the left
    mask: Tensor  # int64 [B, S], 0 on padding
    prefix: int  # P, the number of first tokens that are the same in all rows


def prompt_cache(llm: Any, prompts: Prompts, beams: int, most_new: int) -> tuple[Prompts, Any]:
    """Prompts for `generate`, and the cache of their first columns, with B x beams rows; None if nothing can be shared.
    Up to `most_new` tokens may follow."""
    from transformers import DynamicCache

    embeds, mask, prefix = prompts
    rows, width = mask.shape
    cache: Any = DynamicCache(config=llm.config.get_text_config(decoder=True))
    done = 0
    if any(cache.is_linear) or not _takes_caches(llm):
        return prompts, None
    if prefix >= LEAST_PREFIX and rows > 1 and _prefix_comes_first(cache, width + most_new):
        embeds, mask, done = *_with_prefix_first(prompts), prefix
        _extend(llm, cache, embeds[:1, :prefix], mask[:1, :prefix], 0)
        cache.reorder_cache(torch.zeros(rows, dtype=torch.int64, device=mask.device))
    if beams > 1:
        _extend(llm, cache, embeds[:, done:-1], mask[:, :-1], done)  # `generate` computes the last column's logits
        cache.reorder_cache(torch.arange(rows, device=mask.device).repeat_interleave(beams))
        done = width - 1
    return Prompts(embeds, mask, prefix), cache if done else None


def _extend(llm: Any, cache: Any, embeds: Tensor, mask: Tensor, done: int) -> None:
    """Appends the keys and values of `embeds` [rows, n, H]; `mask` is [rows, done + n]."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, done:]
    options = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache, "use_cache": True}
    llm.base_model(inputs_embeds=embeds, **options)


def _with_prefix_first(prompts: Prompts) -> tuple[Tensor, Tensor]:
    """embeds and mask with the prefix before the padding."""
    embeds, mask, prefix = prompts
    fullest = mask.sum(1).argmax()  # it has no padding, so its prefix is in the first columns
    rest = mask.cumsum(1) > prefix
    first = torch.arange(mask.shape[1], device=mask.device) < prefix
    moved = torch.where(first[None, :, None], embeds[fullest], embeds * rest[..., None])
    return moved, (rest | first).to(mask.dtype)


def _takes_caches(llm: Any) -> bool:
    """Whether the LLM accepts positions and transformers' standard cache."""
    own_cache = hasattr(llm, "_reorder_cache") or not llm._supports_default_dynamic_cache()
    accepted = inspect.signature(llm.base_model.forward).parameters
    return not own_cache and {"position_ids", "past_key_values"} <= accepted.keys()


def _prefix_comes_first(cache: Any, columns: int) -> bool:
    """Whether padding may lie between prefix and speech: every layer must attend to all columns. Recurrent layers would
    process the padding, and sliding windows and chunks count columns, padding included."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    def reaches(layer: Any) -> bool:
        window = layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None
        return type(layer) is DynamicLayer or (type(layer) is DynamicSlidingWindowLayer and (window or 0) >= columns)

    return bool(cache.layers) and all(map(reaches, cache.layers))
