"""Merges LoRA into its LLM: an ordinary Hugging Face folder, which any program opens, and an adapter for that LLM."""

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_prep.durable import sync_folder
from model.errors import TransientError, UserError
from model.files import saving_pretrained
from model.llm import load_llm
from model.lora import add_lora, load_lora, merge_lora
from model.weights import AdapterCard, open_llm

PROBE = 8  # tokens whose logits are compared before and after
MOST_DIFFERENCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Of the logits, relative, by the dtype that merged weights are rounded to."""


def merge(
    card: AdapterCard,
    weights: dict[str, Tensor],
    folder: Path,
    out: Path,
    llm: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[AdapterCard, str]:
    """Writes the LLM with the updates of `weights` in its own, in its stored dtype, and its tokenizer into the new
    folder `out`; the card of an adapter for it, and a line about how its logits differ.

    `folder` is that of adapter.json, `llm` says where the LLM is if not there. It is held in float32: 4 bytes a
    parameter. UserError for an adapter without LoRA, a quantised LLM, and where merged logits are others."""
    if card.lora is None:
        raise UserError(f"the adapter in {str(folder)!r} has no LoRA to merge; leave --merge out")
    if os.path.lexists(out):
        raise UserError(f"{str(out)!r} is there already; name a new folder for the merged LLM")
    loaded = open_llm(card, folder, llm, "float32", "cpu", trust_remote_code)
    model = loaded.model
    if getattr(model, "is_quantized", False) or getattr(model.config, "quantization_config", None):
        raise UserError(
            f"LLM {card.llm_source!r} is quantised, and updates cannot be added to weights of few bits; use the "
            "adapter as it is, or merge it into the LLM's own checkpoint with --llm"
        )
    stored = model.config.dtype or torch.float32
    plain = _logits(model)
    add_lora(model, card.lora)
    load_lora(model, weights)
    updated = _logits(model)
    merge_lora(model)
    try:
        identity, merged = _written(model.to(stored), loaded.tokenizer, out, trust_remote_code, updated)
    except OSError as error:
        raise TransientError(f"cannot write {str(out)!r}: {error.strerror or error}; nothing was left there") from None
    line = (
        f"LoRA changes the LLM's logits by {_relative(updated, plain):.2%}, merging and rounding to "
        f"{str(stored).removeprefix('torch.')} by {_relative(merged, updated):.2%}"
    )
    return replace(card, llm=identity, llm_source=str(out), llm_path="", lora=None, lora_sha256=""), line


def _written(
    model: Any, tokenizer: Any, out: Path, trust_remote_code: bool, expected: Tensor
) -> tuple[dict[str, Any], Tensor]:
    """Fingerprint and logits of the model as it is read back from `out`, which appears whole or not at all."""
    parent, dtype = out.absolute().parent, model.dtype
    parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=parent, prefix=f".{out.name}."))
    try:
        with saving_pretrained():
            model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        del model
        read = load_llm(str(temporary), "float32", "cpu", trust_remote_code)
        merged = _logits(read.model)
        if _relative(merged, expected) > MOST_DIFFERENCE[dtype]:
            raise UserError(
                f"the merged LLM's logits differ by {_relative(merged, expected):.1%} from those with LoRA beside it, "
                "more than rounding explains; use the adapter with its LoRA as it is"
            )
        temporary.chmod(0o755)  # mkdtemp's folder is closed to others
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(parent)
    return read.fingerprint, merged


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    """[PROBE, V] float32, of token ids that every vocabulary has."""
    return model(input_ids=torch.arange(1, PROBE + 1)[None], use_cache=False).logits[0].float()


def _relative(logits: Tensor, reference: Tensor) -> float:
    return float((logits - reference).norm() / reference.norm())
