"""Copies the adapter out of a run: files that can be shared, checked before and after the copy."""

import json
import os
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from data_prep.durable import new_folder
from decode.merge import merge
from model import weights
from model.adapters import build_adapter
from model.errors import TransientError, UserError
from model.lora import peft_config

FOR_PEFT = "lora"  # folder of an export in peft's own format


def export(source: str | Path, out: str | Path) -> weights.AdapterCard:
    """Copies adapter.safetensors and adapter.json of a run, checkpoint or export into the new folder `out`, and
    lora.safetensors if there is one; LoRA is also in `out`/lora, in peft's own format.

    `out` appears whole or not at all. Exporting the same adapter there again does nothing; UserError if `out` holds
    anything else, or if the source is damaged (its hash, names and shapes are checked)."""
    source = weights.find_adapter(source)
    card, tensors = weights.read_adapter(source)
    return write(source, Path(out), card, tensors)


def export_merged(
    source: str | Path, out: str | Path, merged: str | Path, llm: str | None = None, trust_remote_code: bool = False
) -> tuple[weights.AdapterCard, str]:
    """The same for an adapter with LoRA, which is merged into a copy of its LLM in the new folder `merged`. UserError
    as in merge.py. The card is for that copy; the line is about how the merged logits differ."""
    source, out = weights.find_adapter(source), Path(out)
    if os.path.lexists(out):
        raise UserError(f"{str(out)!r} is there already; name a new folder")
    if os.path.realpath(out) == os.path.realpath(merged):
        raise UserError(f"{str(out)!r} is named for the export and for the merged LLM; name two folders")
    card, tensors = weights.read_adapter(source)
    card, line = merge(card, tensors, source, Path(merged), llm, trust_remote_code)
    return write(source, out, card, tensors), line


def write(source: Path, out: Path, card: weights.AdapterCard, tensors: dict[str, Tensor]) -> weights.AdapterCard:
    """Writes the adapter in `source` into `out` under this card; see `export`."""
    weights.load_weights(build_adapter(card.spec), weights.of_adapter(tensors))
    if not os.path.lexists(out):
        try:
            _copy(source, out, card)
        except OSError as error:
            failed = f"cannot write {str(out)!r}: {error.strerror or error}; nothing was left there"
            raise TransientError(f"{failed}, make room or name another folder") from None
    elif not _holds(out, card):
        raise UserError(f"{str(out)!r} is there already and holds something else; name a new folder")
    return card


def _copy(source: Path, out: Path, card: weights.AdapterCard) -> None:
    with new_folder(out) as temporary:
        copied = weights.moved_card(card, source, temporary)
        weights.write_synced(temporary / weights.WEIGHTS, (source / weights.WEIGHTS).read_bytes())
        if card.lora is not None:
            lora, for_peft = (source / weights.LORA).read_bytes(), temporary / FOR_PEFT
            for_peft.mkdir()
            options = json.dumps(peft_config(card.lora, card.llm_source), indent=1, sort_keys=True) + "\n"
            weights.write_synced(for_peft / "adapter_config.json", options.encode())
            for path in (temporary / weights.LORA, for_peft / "adapter_model.safetensors"):
                weights.write_synced(path, lora)
        weights.write_card(temporary, copied)
        assert weights.read_adapter(temporary)[0] == copied, "the copy differs from what was checked"


def _holds(out: Path, card: weights.AdapterCard) -> bool:
    """Whether `out` holds this adapter; paths to encoder and LLM may differ, as the folders do."""
    try:
        return replace(weights.read_adapter(out)[0], encoder_path=card.encoder_path, llm_path=card.llm_path) == card
    except (OSError, UserError):
        return False
