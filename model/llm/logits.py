"""Next-token logits of a causal LLM at selected positions: those of its own forward pass, at a fraction of the memory.

P positions, T tokens of a packed row, B x S of a padded batch, H width, V vocabulary."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.errors import UserError
from model.packing import PackedLengths

PROBE = 1000.0  # the largest logit that `require_own_logits` compares; soft caps are at 30 to 50
TOLERANCE = 1e-2  # of the largest logit


def _times(logits: Tensor, factor: float) -> Tensor:
    return logits * factor


def _divided(logits: Tensor, divisor: float) -> Tensor:
    return logits / divisor


def _soft_capped(logits: Tensor, cap: float) -> Tensor:
    return torch.tanh(logits / cap) * cap


AFTER_HEAD: dict[str, Callable[[Tensor, float], Tensor]] = {
    "logits_scaling": _divided,  # Granite
    "logit_scale": _times,  # Cohere
    "lm_head_multiplier": _times,  # Falcon-H1
    "final_logit_softcapping": _soft_capped,  # Gemma 2 and later, VaultGemma, nanochat
}
"""How LLMs change the output of the output layer, by configuration key; each as in transformers' forward pass."""
BEFORE_HEAD = ("minicpm3",)  # families that divide the output layer's input by logits_scaling, not its output


def logits_at(model: Any, embeds: Tensor, mask: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
    """Next-token logits at selected positions only, as all B x S would be gigabytes with a vocabulary of 152k: embeds
    [B, S, H], mask [B, S], rows and positions [P] -> [P, V]."""
    place = (mask.cumsum(-1) - 1).clamp(min=0)
    output = model.base_model(inputs_embeds=embeds, attention_mask=mask, position_ids=place, use_cache=False)
    return _logits(model, output.last_hidden_state[rows, positions])


def packed_logits_at(model: Any, embeds: Tensor, positions: Tensor, packing: PackedLengths, places: Tensor) -> Tensor:
    """The same for an LLM that `packs`: embeds [T, H], positions [T] in each utterance, places [P] -> [P, V]."""
    output = model.base_model(
        inputs_embeds=embeds[None],
        attention_mask=positions.new_ones(1, 1, 1, 1),  # unused; without it transformers builds a mask of T x T
        position_ids=positions[None],
        packing=packing,
        use_cache=False,
    )
    return _logits(model, output.last_hidden_state[0, places])


def _logits(model: Any, hidden: Tensor) -> Tensor:
    """hidden [P, H] -> [P, V], scaled and soft-capped according to the LLM's configuration."""
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    if config.model_type in BEFORE_HEAD:
        return head(hidden / config.logits_scaling)
    logits = head(hidden)
    for key, change in AFTER_HEAD.items():
        value = getattr(config, key, None)
        if value is not None:
            logits = change(logits, value)
    return logits


@torch.no_grad()
def require_own_logits(model: Any, source: str) -> None:
    """UserError unless `logits_at` reproduces the logits of this LLM's own forward pass: as they are, and with the
    output layer's output scaled up to `PROBE`, so that soft-capping is detected whatever the weights."""
    ids = torch.arange(1, 5, device=model.device)[None]
    embeds, mask = model.get_input_embeddings()(ids), torch.ones_like(ids)

    def same() -> bool:
        expected = model(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits[0].float()
        actual = logits_at(model, embeds, mask, torch.arange(4), torch.zeros(4, dtype=torch.int64)).float()
        return torch.allclose(expected, actual, rtol=TOLERANCE, atol=TOLERANCE * float(expected.abs().max()))

    def scale_up(head: Any, inputs: Any, logits: Tensor) -> Tensor:
        return PROBE * F.normalize(logits, p=float("inf"), dim=-1)

    same_unscaled = same()
    with model.get_output_embeddings().register_forward_hook(scale_up):
        if same_unscaled and same():
            return
    changes = "changes its logits around the output layer in a way that is not supported"
    raise UserError(
        f"LLM {source!r} ({model.config.model_type}) {changes}; use another LLM, or add its rule to AFTER_HEAD in "
        "model/llm/logits.py"
    )
