"""The frozen causal LLM: any checkpoint that AutoModelForCausalLM opens."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.errors import UserError
from model.pretrained import choose_dtype, fingerprint, loading, open_pretrained

PROBE = 1000.0
"""The largest logit of those that `_check_logits` compares; soft caps lie at 30 to 50."""


@dataclass(frozen=True)
class Llm:
    """A loaded LLM, its tokenizer and what identifies them."""

    model: Any
    tokenizer: Any
    fingerprint: dict[str, Any]


def load_llm(source: str, dtype: str = "auto", device: Any = "cpu", trust_remote_code: bool = False) -> Llm:
    """A frozen LLM with its tokenizer, from a Hugging Face id or a local folder, on `device`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with loading("LLM's tokenizer", source):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    model = open_pretrained(AutoModelForCausalLM, "LLM", source, trust_remote_code)
    weights = fingerprint(model)
    model = model.to(device=device, dtype=choose_dtype(dtype, device))
    _check_logits(model, source)
    identity = {
        "family": model.config.model_type,
        "weights": weights,
        "dim": embedding_dim(model),
        "vocabulary": len(tokenizer),
    }
    return Llm(model, tokenizer, identity)


def embedding_dim(model: Any) -> int:
    """H, the width of the LLM's input embeddings."""
    return model.get_input_embeddings().embedding_dim


def logits_at(model: nn.Module, embeds: Tensor, mask: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
    """Next-token logits at chosen places only: embeds [B, S, H], mask [B, S], rows and positions [P] -> [P, V].

    The LLM's head is applied to P hidden states, not to B x S: with a vocabulary of 152k that is gigabytes.
    """
    place = (mask.cumsum(-1) - 1).clamp(min=0)
    llm: Any = model
    hidden = llm.base_model(
        inputs_embeds=embeds, attention_mask=mask, position_ids=place, use_cache=False
    ).last_hidden_state
    return llm.get_output_embeddings()(hidden[rows, positions])


@torch.no_grad()
def _check_logits(model: Any, source: str) -> None:
    """UserError unless `logits_at` gives this LLM's own logits.

    Some LLMs scale or cap what the head puts out. So that capping shows, whatever the weights, the head's output is
    blown up to `PROBE` while we look.
    """
    ids = torch.arange(1, 5, device=model.device)[None]
    embeds = model.get_input_embeddings()(ids)
    mask = torch.ones_like(ids)
    with model.get_output_embeddings().register_forward_hook(_blow_up):
        whole = model(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits[0]
        ours = logits_at(model, embeds, mask, torch.arange(4), torch.zeros(4, dtype=torch.int64))
    if not torch.allclose(whole.float(), ours.float(), rtol=1e-2, atol=1e-2 * PROBE):
        raise UserError(
            f"LLM {source!r} changes its logits after the output layer (soft-capping or scaling), which is not "
            "supported; use another LLM"
        )


def _blow_up(head: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
    return PROBE * F.normalize(logits, p=float("inf"), dim=-1)
