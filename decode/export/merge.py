"""Merges LoRA into its LLM: an adapter without LoRA, and in its folder `llm` the LLM that it is for, an ordinary
Hugging Face folder, which any program can load."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decode.export.adapter import EXPORT_DTYPES, fill, trained_on, written_whole
from decode.export.origin import of_adapter
from model import weights
from model.errors import UserError, require_known
from model.files import saving_pretrained
from model.llm import load_llm
from model.loading import DTYPES
from model.lora import add_lora, load_lora, merge_lora

LLM = "llm"  # folder of the export that the merged LLM is in
PROBE = 8  # tokens whose logits are compared before and after
MOST_DIFFERENCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Largest relative difference of logits, by the dtype that the merged weights are rounded to."""


def export_merged(
    source: str | Path,
    out: str | Path,
    dtype: str = "float32",
    llm: str | None = None,
    trust_remote_code: bool = False,
    llm_dtype: str | None = None,
) -> tuple[weights.AdapterCard, str]:
    """Exports an adapter with LoRA into the new folder `out` as an adapter without, for the merged LLM in `out`/llm,
    which is found there when `out` is moved. Returns its card, and a line about how the merged logits differ.

    `dtype` is that of the adapter's file, `llm_dtype` ("float32", "bfloat16", "float16") that of the LLM's, by
    default its stored one, which rounds what LoRA adds. `llm` is the LLM's place, if not the one in adapter.json;
    it is held in float32: 4 bytes a parameter. UserError for an adapter without LoRA, a quantised LLM, and for
    merged logits that differ by more than rounding."""
    source, out = weights.find_adapter(source), Path(out)
    require_known("dtype of an export", dtype, EXPORT_DTYPES)
    if llm_dtype is not None:
        require_known("dtype of a merged LLM", llm_dtype, DTYPES)
    if os.path.lexists(out):
        raise UserError(f"{str(out)!r} is there already; name a new folder")
    card, tensors = weights.read_adapter(source)
    if card.lora is None:
        raise UserError(f"the adapter in {str(source)!r} has no LoRA to merge; leave --format merged out")
    merged = replace(card, llm_path="", lora=None, lora_sha256="")
    files, digests = weights.weight_files(tensors, merged, DTYPES[dtype])
    with written_whole(out) as temporary:
        loaded = weights.open_llm(card, source, llm, "float32", "cpu", trust_remote_code)
        stored = DTYPES[llm_dtype] if llm_dtype else loaded.model.config.dtype or torch.float32
        written = _write_merged(loaded.model, loaded.tokenizer, card, tensors, temporary / LLM, stored)
        del loaded
        identity, line = _compared(*written, temporary / LLM, trust_remote_code)
        merged = replace(merged, **digests, **trained_on(source), llm=identity, llm_source=str(temporary / LLM))
        merged = weights.moved_card(merged, source, temporary)
        merged = replace(merged, llm_source=str(out / LLM))
        fill(temporary, merged, files, {"merged": of_adapter(card)})
    return merged, line


def _write_merged(
    model: Any,
    tokenizer: Any,
    card: weights.AdapterCard,
    tensors: dict[str, Tensor],
    folder: Path,
    stored: torch.dtype,
) -> tuple[torch.dtype, Tensor, Tensor]:
    """Merges LoRA into the model and writes it, in the dtype `stored`, with its tokenizer. Returns that dtype, and the
    logits before LoRA was added and with it."""
    if getattr(model, "is_quantized", False) or getattr(model.config, "quantization_config", None):
        raise UserError(
            f"LLM {card.llm_source!r} is quantised, and LoRA cannot be merged into quantised weights; use the "
            "adapter as it is, or merge it into the LLM's unquantised checkpoint with --llm"
        )
    assert card.lora is not None
    plain = _logits(model)
    add_lora(model, card.lora)
    load_lora(model, tensors)
    with_lora = _logits(model)
    merge_lora(model)
    with saving_pretrained():
        model.to(stored).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return stored, plain, with_lora


def _compared(
    stored: torch.dtype, plain: Tensor, with_lora: Tensor, folder: Path, trust_remote_code: bool
) -> tuple[dict[str, Any], str]:
    """The fingerprint of the merged LLM, loaded again, and a line about how its logits differ."""
    reloaded = load_llm(str(folder), "float32", "cpu", trust_remote_code)
    merged = _logits(reloaded.model)
    if _relative(merged, with_lora) > MOST_DIFFERENCE[stored]:
        raise UserError(
            f"the merged LLM's logits differ by {_relative(merged, with_lora):.1%} from those with unmerged LoRA, "
            "more than rounding explains; use the adapter and LoRA unmerged"
        )
    line = (
        f"LoRA changes the LLM's logits by {_relative(with_lora, plain):.2%}, merging and rounding to "
        f"{str(stored).removeprefix('torch.')} by {_relative(merged, with_lora):.2%}"
    )
    return reloaded.fingerprint, line


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    """[PROBE, V] float32, of token ids that every vocabulary has."""
    return model(input_ids=torch.arange(1, PROBE + 1)[None], use_cache=False).logits[0].float()


def _relative(logits: Tensor, reference: Tensor) -> float:
    return float((logits - reference).norm() / reference.norm())
