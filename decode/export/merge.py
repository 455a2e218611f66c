"""Merges LoRA into its LLM: an ordinary Hugging Face folder, which any program can load, and an adapter for that
LLM."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_prep.durable import new_folder
from model.errors import TransientError, UserError
from model.files import saving_pretrained
from model.llm import load_llm
from model.lora import add_lora, load_lora, merge_lora
from model.weights import AdapterCard, open_llm

PROBE = 8  # tokens whose logits are compared before and after
MOST_DIFFERENCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Largest relative difference of logits, by the dtype that the merged weights are rounded to."""


def merge(
    card: AdapterCard,
    weights: dict[str, Tensor],
    folder: Path,
    out: Path,
    llm: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[AdapterCard, str]:
    """Merges the LoRA of `weights` into the LLM and writes it, in its stored dtype, with its tokenizer into the new
    folder `out`; returns the card of an adapter for it, and a line about how its logits differ.

    `folder` is that of adapter.json; `llm` is the LLM's place, if not the one in adapter.json. The LLM is held in
    float32: 4 bytes a parameter. UserError for an adapter without LoRA, a quantised LLM, and for merged logits that
    differ by more than rounding."""
    if card.lora is None:
        raise UserError(f"the adapter in {str(folder)!r} has no LoRA to merge; leave --merge out")
    if os.path.lexists(out):
        raise UserError(f"{str(out)!r} is there already; name a new folder for the merged LLM")
    loaded = open_llm(card, folder, llm, "float32", "cpu", trust_remote_code)
    model = loaded.model
    if getattr(model, "is_quantized", False) or getattr(model.config, "quantization_config", None):
        raise UserError(
            f"LLM {card.llm_source!r} is quantised, and LoRA cannot be merged into quantised weights; use the "
            "adapter as it is, or merge it into the LLM's unquantised checkpoint with --llm"
        )
    stored = model.config.dtype or torch.float32
    plain = _logits(model)
    add_lora(model, card.lora)
    load_lora(model, weights)
    with_lora = _logits(model)
    merge_lora(model)
    try:
        identity, merged = _written(model.to(stored), loaded.tokenizer, out, trust_remote_code, with_lora)
    except OSError as error:
        raise TransientError(f"cannot write {str(out)!r}: {error.strerror or error}; nothing was left there") from None
    line = (
        f"LoRA changes the LLM's logits by {_relative(with_lora, plain):.2%}, merging and rounding to "
        f"{str(stored).removeprefix('torch.')} by {_relative(merged, with_lora):.2%}"
    )
    return replace(card, llm=identity, llm_source=str(out), llm_path="", lora=None, lora_sha256=""), line


def _written(
    model: Any, tokenizer: Any, out: Path, trust_remote_code: bool, expected: Tensor
) -> tuple[dict[str, Any], Tensor]:
    """Writes the model into `out`, which appears whole or not at all; its fingerprint and logits when loaded again."""
    dtype = model.dtype
    with new_folder(out) as temporary:
        with saving_pretrained():
            model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        del model
        reloaded = load_llm(str(temporary), "float32", "cpu", trust_remote_code)
        merged = _logits(reloaded.model)
        if _relative(merged, expected) > MOST_DIFFERENCE[dtype]:
            raise UserError(
                f"the merged LLM's logits differ by {_relative(merged, expected):.1%} from those with unmerged LoRA, "
                "more than rounding explains; use the adapter and LoRA unmerged"
            )
    return reloaded.fingerprint, merged


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    """[PROBE, V] float32, of token ids that every vocabulary has."""
    return model(input_ids=torch.arange(1, PROBE + 1)[None], use_cache=False).logits[0].float()


def _relative(logits: Tensor, reference: Tensor) -> float:
    return float((logits - reference).norm() / reference.norm())
